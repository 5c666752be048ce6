"""--keep-weights: the saved backbone computes the same features, under its own name and header."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from family_jobs import build, job

from adapters.openmmlab import runner
from bench.backbones import resolve
from bench.backbones.extract import load_backbone
from bench.backbones.timm_models import create
from bench.errors import UserError
from bench.run import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("family", ["segmentation", "depth"])
def test_saved_backbone_computes_what_the_fine_tuned_model_computes(scenes: Path, family: str, arch: str) -> None:
    work = dataclasses.replace(job(family, scenes, arch, "finetune", limit=4), keep_weights=True)
    built = build(work)
    built.train()
    trained = built.model.backbone.eval()
    found = resolve.resolve(str(runner.save_backbone(trained.model, work)))

    assert (found.arch, found.method) == (arch, f"scratch+{family}/scenes")
    assert found.name == f"{arch}-{family}-scenes-seed0"
    again = load_backbone(found, out_indices=trained.out_indices, img_size=(64, 64)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for one, two in zip(trained(x), again(x), strict=True):
            torch.testing.assert_close(one, two)
    torch.manual_seed(0)
    scratch, _ = create(arch)
    first = next(iter(dict(scratch.named_parameters())))
    assert not scratch.get_parameter(first).equal(again.model.get_parameter(first))


def test_from_fine_tuning_to_its_analysis(world: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / split).symlink_to(world / "species" / split)
    asked = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    asked += ["--work-dir", str(tmp_path / "runs"), "--include", str(own(tmp_path)), "--task"]
    assert main([*asked, "classification/short", "--backbone", "test_vit", "--keep-weights"]) == 0
    (weights,) = (tmp_path / "runs").glob("classification/*/*/*/backbone.safetensors")
    assert not (weights.parent / "checkpoint.pth").exists()
    assert main([*asked, "analysis/similarity-folder", "--smoke", "--backbone", "test_vit", str(weights)]) == 0
    names = {p.parent.name.partition("@")[0] for p in (tmp_path / "results").glob("analysis/*/*/*.json")}
    assert names == {"test_vit", "test_vit-classification-short-seed0"}


def own(folder: Path) -> Path:
    """A task of the user's own: one epoch of fine-tuning."""
    (folder / "own.py").write_text(
        "import dataclasses\n"
        "from adapters.classification import TASKS as known\n"
        "(folder,) = [t for t in known if t.name == 'classification/folder']\n"
        "short = dataclasses.replace(folder.protocols[0], epochs=1, batch_size=4, img_size=64, warmup_epochs=0)\n"
        "TASKS = (dataclasses.replace(folder, name='classification/short', protocols=(short,)),)\n"
    )
    return folder / "own.py"


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        ("finetune", {"window_size": 2}, "windows in a plain ViT's attention"),
        ("finetune", {"window_size": 0, "drop_blocks": 1}, "blocks left out"),
    ],
)
def test_a_backbone_that_cannot_be_saved_is_refused_before_training(
    scenes: Path, protocol: str, changes: dict[str, Any], message: str
) -> None:
    work = job("detection", scenes, "test_vit", protocol, **changes)
    with pytest.raises(UserError, match=message):
        runner.check_savable(
            {"model": {"backbone": {"window_size": changes.get("window_size", 0)}}},
            dataclasses.replace(work, keep_weights=True),
        )
