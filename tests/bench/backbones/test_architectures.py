"""The table of timm's architectures is up to date, and tells weights apart by shapes alone."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from bench.backbones.architectures import HEAD, TABLE, architectures, known, matching, signature
from bench.backbones.extract import FeatureExtractor
from bench.backbones.timm_models import create
from tools import supported_models

pytestmark = pytest.mark.usefixtures("one_thread")
REGENERATE = "run python -m tools.supported_models --write"

# One at least of each verdict: inside, each mark, each kind of reason to be outside.
SAMPLE = (
    *("test_vit", "test_vit2", "test_resnet", "test_convnext", "test_efficientnet", "test_nfnet"),
    *("resnet50", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224", "hiera_tiny_224"),
    *("swin_tiny_patch4_window7_224", "vit_small_patch14_reg4_dinov2", "poolformer_s12"),
    *("vit_srelpos_small_patch16_224", "levit_128s", "test_maxvit", "mobilevitv2_050", "coat_tiny"),
)


def shapes_of(arch: str, **options: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = timm.create_model(arch, **options)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_the_table_names_every_architecture_that_timm_has() -> None:
    assert architectures() == set(timm.list_models()), REGENERATE
    assert f'"timm": "{timm.__version__}"' in TABLE.read_text("utf-8")[:40], REGENERATE


@pytest.mark.parametrize("arch", SAMPLE)
def test_the_table_agrees_with_timm_and_with_the_contract(arch: str) -> None:
    row = {key: value for key, value in known()[arch].items() if key != "ran"}
    assert supported_models.survey(arch) == row, REGENERATE


def test_the_sample_has_every_verdict() -> None:
    verdicts = {key for arch in SAMPLE for key in known()[arch]}
    assert verdicts >= {"outside", *supported_models.MARKS}


def test_the_page_is_the_tables_and_names_every_architecture_once() -> None:
    page = supported_models.PAGE.read_text("utf-8")
    assert page == supported_models.page(known()), REGENERATE
    named = re.findall(r"`(\w+)`", page)
    assert sorted(named) == sorted(architectures())


@pytest.mark.parametrize(
    ("arch", "options", "other", "other_options"),
    [
        ("vit_small_patch16_224", {}, "vit_small_patch16_384", {}),
        ("vit_small_patch16_224", {}, "vit_small_patch16_224", {"num_classes": 0}),
        ("vit_small_patch16_224", {}, "vit_small_patch16_224", {"global_pool": "avg"}),
        ("beit_base_patch16_224", {}, "beit_base_patch16_384", {}),
        ("swin_base_patch4_window7_224", {}, "swin_base_patch4_window12_384", {}),
        ("convnext_tiny", {}, "convnext_tiny", {"num_classes": 7}),
        ("tiny_vit_21m_224", {}, "tiny_vit_21m_384", {}),
        ("deit_tiny_distilled_patch16_224", {}, "deit_tiny_distilled_patch16_224", {"img_size": 64}),
    ],
)
def test_neither_input_size_nor_classifier_nor_place_of_the_norm_counts(
    arch: str, options: dict[str, Any], other: str, other_options: dict[str, Any]
) -> None:
    assert signature(shapes_of(arch, **options)) == signature(shapes_of(other, **other_options))


def test_every_classifier_of_timms_is_known_as_one() -> None:
    for arch in timm.list_models():
        names = timm.get_pretrained_cfg(arch).classifier or ()
        for name in (names,) if isinstance(names, str) else names:
            assert HEAD.match(f"{name}.weight"), (arch, name)


def test_every_other_tensor_counts() -> None:
    shapes = shapes_of("test_vit")
    whole = signature(shapes)
    for key, shape in shapes.items():
        without = {k: v for k, v in shapes.items() if k != key}
        changed = {**shapes, key: (*shape[:-1], shape[-1] + 1)}
        of_head, of_size = key.startswith("head."), key == "pos_embed"
        assert (signature(without) == whole) == of_head, key
        assert (signature(changed) == whole) == (of_head or of_size), key
    assert signature({**shapes, "blocks.0.ls1.gamma": (64,)}) != whole


@pytest.mark.parametrize(
    "arch", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "convnext_tiny", "hiera_tiny_224"]
)
def test_an_architecture_of_its_own_shapes_is_found(arch: str) -> None:
    assert matching(shapes_of(arch)) == (arch,)


def test_of_several_the_one_of_that_size_comes_first_then_the_most_published() -> None:
    assert matching(shapes_of("vit_base_patch16_384"))[0] == "vit_base_patch16_384"
    small = matching(shapes_of("vit_base_patch16_224", img_size=64))
    assert small[0] == "vit_base_patch16_224"
    assert {"deit_base_patch16_224", "flexivit_base", "vit_base_patch16_384"} <= set(small)
    assert matching(shapes_of("resnet50")) == ("resnet50", "resnetaa50", "resnetblur50")
    assert matching({"conv1.weight": (64, 3, 7, 7)}) == ()


def test_neither_the_table_nor_the_list_of_names_needs_torch(python: Callable[[str], Any]) -> None:
    done = python(
        "import sys\n"
        "from bench import run\n"
        "from bench.backbones import architectures\n"
        "assert architectures.matching({}) == ()\n"
        "run.main(['--list', 'backbones'])\n"
        "heavy = {'torch', 'timm', 'bench.backbones.extract'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert done.returncode == 0, done.stderr
    assert "vit_base_patch16_224" in done.stdout.split()


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet"])
def test_an_architecture_is_run_in_earnest(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    supported_models.run(arch)
    whole = FeatureExtractor.forward
    upside_down = lambda self, images: [m.flip(2) for m in whole(self, images)]  # noqa: E731
    monkeypatch.setattr(FeatureExtractor, "forward", upside_down)
    with pytest.raises(AssertionError, match="corner 0 shows in quarter 2"):
        supported_models.run(arch)


def test_what_timm_does_not_norm_when_asked_is_not_called_normed() -> None:
    with torch.device("meta"):
        extractor = FeatureExtractor(create("qwen3_vit_88m")[0], arch="qwen3_vit_88m")
    assert extractor.plain
    assert not extractor.normed
