"""Both kinds of tracker on every kind of backbone: shapes, gradients, what each output depends on."""

from typing import Any

import pytest
import torch

from adapters.openmmlab import compatibility

compatibility.prepare()

from mmengine.registry import MODELS  # noqa: E402

from adapters.tracking import model  # noqa: E402
from adapters.tracking.heads import touched  # noqa: E402
from bench.errors import UserError  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"template_size": 32, "img_size": 64, "primed": True}
PREPROCESSOR = {"type": "PairPreprocessor", "mean": [120.0] * 3, "std": [60.0] * 3}


def build(kind: str, arch: str, map_index: int = -1, **changes: Any) -> model.PairModel:
    torch.manual_seed(0)
    fusion = {"dim": 32, "heads": 4, "layers": 1, "drop_path": 0.0}
    backbone = {"type": "TimmBackbone", "arch": arch, "img_size": 64, "out_indices": [map_index]}
    settings = {**SIZES, **(fusion if kind == "FusionTracker" else {}), **changes}
    config = {"type": kind, "backbone": backbone, "data_preprocessor": PREPROCESSOR, **settings}
    return MODELS.build(config)


def crops(count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    template, search = (torch.randn(count, 3, s, s, generator=random) for s in (32, 64))
    return template, search, torch.rand(count, 4, generator=random) * 0.3 + 0.3


KINDS = [
    ("FusionTracker", "test_vit", -1),
    ("FusionTracker", "test_resnet", 3),
    ("FusionTracker", "test_resnet", 2),  # stride 8
    ("FusionTracker", "swinv2_tiny_window8_256", 2),
    ("FusionTracker", "hiera_tiny_224", 2),  # takes one size, to which both crops are padded
    ("OneStreamTracker", "test_vit", -1),
    ("OneStreamTracker", "vit_small_patch14_reg4_dinov2", -1),
]


@pytest.mark.parametrize(("kind", "arch", "index"), KINDS)
def test_every_backbone_is_located_with_and_trained(kind: str, arch: str, index: int) -> None:
    tracker = build(kind, arch, index)
    template, search, truth = crops()
    logits, boxes = tracker(template, search)
    losses = tracker(template, search, truth, mode="loss")
    sum(losses.values()).backward()

    assert logits.shape == (2, 16)
    assert boxes.shape == (2, 16, 4)
    assert set(losses) == {"loss_score", "loss_box"}
    stem = next(p for n, p in tracker.backbone.named_parameters() if p.ndim == 4)
    assert stem.grad is not None
    assert stem.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "primed"), [("FusionTracker", True), ("FusionTracker", False), ("OneStreamTracker", True)]
)
def test_place_depends_on_the_template_which_is_encoded_once(kind: str, primed: bool) -> None:
    tracker = build(kind, "test_vit", primed=primed).eval()
    template, search, _ = crops()
    kept = tracker.encode(template)
    whole = tracker(template, search)

    for part, expected in zip(tracker.locate(kept, search), whole, strict=True):
        torch.testing.assert_close(part, expected)
    assert not torch.allclose(tracker.locate(kept.flip(0), search)[0], whole[0], atol=1e-4)


def test_primed_search_agrees_with_the_middle_of_the_template() -> None:
    """Of 4 x 4 tokens, the four in the middle; nothing else tells the search of the template here."""
    tracker = build("FusionTracker", "test_vit", template_size=64).eval()
    tokens = torch.randn(1, 16, 64)
    middle = tokens[:, [5, 6, 9, 10]].mean(1, keepdim=True)
    search = crops(1)[1]
    tracker.fusion = Passing()
    expected = tracker.project(features := tracker._features(search, 4))
    expected = tracker.head(expected + tracker.agree(features * middle))

    for part, whole in zip(tracker.locate(tokens, search), expected, strict=True):
        torch.testing.assert_close(part, whole)


class Passing(torch.nn.Module):
    def forward(self, template: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
        return search


def test_one_stream_without_a_template_is_the_vit_itself() -> None:
    """Prefix tokens, positions resampled to the crop, blocks and norm, as timm has them."""
    tracker = build("OneStreamTracker", "vit_small_patch14_reg4_dinov2").eval()
    _, search, _ = crops()
    resized = torch.nn.functional.interpolate(search, (56, 56), mode="bilinear", antialias=True)
    none = tracker.encode(crops()[0])[:, :0]
    expected = tracker.head(tracker.backbone(resized)[-1].flatten(2).mT)

    for part, whole in zip(tracker.locate(none, search), expected, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ["test_resnet", "swinv2_tiny_window8_256"])
def test_one_stream_refuses_what_is_no_plain_vit(arch: str) -> None:
    with pytest.raises(UserError, match=rf"^The one-stream protocol cannot take {arch}: .* plain ViT"):
        build("OneStreamTracker", arch)


@pytest.mark.parametrize("kind", ["FusionTracker", "OneStreamTracker"])
def test_bf16_autocast_gives_the_same_within_its_precision(kind: str) -> None:
    tracker = build(kind, "test_vit").eval()
    template, search, truth = crops()
    with torch.autocast("cpu", torch.bfloat16):
        logits, boxes = tracker(template, search)
        losses = tracker(template, search, truth, mode="loss")
    exact = tracker(template, search)

    assert boxes.dtype == torch.float32
    torch.testing.assert_close(boxes, exact[1], atol=0.02, rtol=0)
    torch.testing.assert_close(logits.float(), exact[0], atol=0.1, rtol=0.1)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_preprocessor_stacks_and_normalises() -> None:
    tracker = build("FusionTracker", "test_vit")
    pair = {
        "template": torch.full((3, 32, 32), 180, dtype=torch.uint8),
        "search": torch.full((3, 64, 64), 60, dtype=torch.uint8),
        "box": torch.rand(4),
    }
    batch = tracker.data_preprocessor({name: [value, value] for name, value in pair.items()})

    assert batch["template"].shape == (2, 3, 32, 32)
    assert (batch["template"] == 1).all()
    assert (batch["search"] == -1).all()
    assert batch["box"].equal(torch.stack([pair["box"]] * 2))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["FusionTracker", "OneStreamTracker"])
def test_eight_pairs_are_fitted(kind: str) -> None:
    tracker = build(kind, "test_vit")
    template, search, truth = crops(8)
    optimizer = torch.optim.AdamW(tracker.parameters(), 2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        sum(tracker(template, search, truth, mode="loss").values()).backward()
        optimizer.step()
    logits, boxes = tracker.eval()(template, search)
    best = logits.argmax(1)

    assert touched(truth, 4)[range(8), best].all()
    assert (boxes[range(8), best] - truth).abs().max() < 0.05
