"""Plain ViTs against a re-statement of the module trees that their authors share."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from restated_vit import (
    DINO_HEAD,
    State,
    SwiGLU,
    ViT,
    as_compiled,
    as_deit_distilled,
    as_dino,
    as_dinov2,
    as_dinov2_training,
    as_finetuned,
    as_ibot,
    as_ibot_student,
    as_lightning,
    as_mae,
    as_mocov3,
    as_mocov3_linear,
    some,
    under,
)
from torch import Tensor, nn

from bench.backbones.build import build
from bench.backbones.checkpoints import PARTS
from bench.backbones.formats import IMAGENET, Encoder, recognise
from bench.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of file: how its authors save it, and what recognising it should tell.

    `full` is the size of a published one, `found` the architecture it should be recognised as.
    """

    wrap: Callable[[State], object]
    name: str
    method: str | None
    arch: str = "vit_tiny_patch16_224"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    full: dict[str, Any]
    found: str
    leftover: int

    def state(self, model: nn.Module) -> State:
        return {k: v.clone() for k, v in model.state_dict().items()}


B16 = {"dim": 768, "depth": 12, "patch": 16, "size": 224}
CASES = {
    "mae": Case(
        wrap=as_mae, name="MAE, pretraining", method="mae", leftover=7,
        full={"dim": 1280, "depth": 32, "patch": 14, "size": 224}, found="vit_huge_patch14_224",
    ),
    "mae finetuned": Case(
        wrap=as_finetuned, name="ViT", method=None, leftover=2, model={"mean": True},
        full=B16, found="vit_base_patch16_224",
    ),
    "dino": Case(
        wrap=as_dino, name="DINO", method="dino", leftover=3,
        full={**B16, "patch": 8}, found="vit_base_patch8_224",
    ),
    "dino's backbone": Case(
        wrap=lambda state: state, name="ViT", method=None, leftover=0,
        full={**B16, "patch": 8}, found="vit_base_patch8_224",
    ),
    "ibot": Case(
        wrap=as_ibot, name="iBOT", method="ibot", leftover=5,
        full={**B16, "dim": 1024, "depth": 24}, found="vit_large_patch16_224",
    ),
    "ibot's student": Case(
        wrap=as_ibot_student, name="iBOT, backbone", method="ibot", leftover=4,
        full=B16, found="vit_base_patch16_224",
    ),
    "dinov2": Case(
        wrap=as_dinov2, name="DINOv2", method="dinov2", leftover=1,
        arch="vit_base_patch14_dinov2", model={"scale": "ls"},
        full={**B16, "patch": 14, "size": 518}, found="vit_base_patch14_dinov2",
    ),
    "dinov2, registers": Case(
        wrap=as_dinov2, name="DINOv2", method="dinov2", leftover=1,
        arch="vit_small_patch14_reg4_dinov2", model={"scale": "ls", "registers": 4},
        full={**B16, "dim": 1024, "depth": 24, "patch": 14, "size": 518},
        found="vit_large_patch14_reg4_dinov2",
    ),
    "dinov2, SwiGLU": Case(
        wrap=as_dinov2, name="DINOv2", method="dinov2", leftover=1,
        arch="vit_giant_patch14_dinov2", model={"scale": "ls", "mlp": SwiGLU},
        full={"dim": 1536, "depth": 40, "patch": 14, "size": 518}, found="vit_giant_patch14_dinov2",
    ),
    "dinov2, registers and SwiGLU into a plain name": Case(
        wrap=as_dinov2, name="DINOv2", method="dinov2", leftover=1,
        model={"scale": "ls", "mlp": SwiGLU, "registers": 4},
        full={"dim": 1536, "depth": 40, "patch": 14, "size": 518},
        found="vit_giant_patch14_reg4_dinov2",
    ),
    "dinov2, training": Case(
        wrap=as_dinov2_training, name="DINOv2", method="dinov2", leftover=4,
        arch="vit_base_patch14_dinov2", model={"scale": "ls"},
        full=B16, found="vit_base_patch16_224",
    ),
    "deit": Case(
        wrap=as_finetuned, name="ViT", method=None, leftover=2, arch="deit_tiny_patch16_224",
        full={**B16, "size": 384}, found="vit_base_patch16_384",
    ),
    "deit, distilled": Case(
        wrap=as_deit_distilled, name="DeiT, distilled", method="deit", leftover=4,
        arch="deit_tiny_distilled_patch16_224", model={"distilled": True},
        full={**B16, "dim": 192, "distilled": True}, found="deit_tiny_distilled_patch16_224",
    ),
    "deit3": Case(
        wrap=as_finetuned, name="DeiT III", method="deit3", leftover=2,
        arch="deit3_small_patch16_224", model={"scale": "gamma", "positions": "patches"},
        full={**B16, "size": 384}, found="deit3_base_patch16_384",
    ),
    "lightning": Case(
        wrap=as_lightning, name="ViT", method=None, leftover=1,
        full=B16, found="vit_base_patch16_224",
    ),
    "compiled": Case(
        wrap=as_compiled, name="ViT", method=None, leftover=0,
        full=B16, found="vit_base_patch16_224",
    ),
}  # fmt: skip
SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8, "img_size": 32}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_block_gives_what_the_authors_code_gives(case: Case, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    reference = disturb(ViT(**case.model))
    path = tmp_path / "checkpoint.pth"
    torch.save(case.wrap(case.state(reference)), path)
    _, report = agrees(reference, reference.blocks, case.arch, path, **SMALL)
    assert report.format == case.name
    assert report.matched == len(reference.state_dict())
    assert (report.missing, report.unexpected, report.resampled) == ((), (), ())
    assert len(report.leftover) == case.leftover


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_file_alone_tells_what_it_is(case: Case) -> None:
    with torch.device("meta"):
        content = case.wrap(case.state(ViT(**{**case.model, **case.full})))
    assert isinstance(content, dict)
    part = next((p for p in PARTS if p in content), None)
    encoder = recognise(content[part] if part else content, lambda _: False)
    assert encoder is not None
    assert (encoder.format, encoder.method, encoder.arch) == (case.name, case.method, case.found)
    assert encoder.normalisation == (IMAGENET if case.method else None)


def sines(rows: int, dim: int) -> Tensor:
    """MoCo v3's position embedding, by its definition: row and column, sine and cosine."""
    table = np.zeros((rows, rows, dim))
    for i, j, k in np.ndindex(rows, rows, dim // 4):
        by_row, by_column = i / 10000 ** (k / (dim // 4)), j / 10000 ** (k / (dim // 4))
        table[i, j, k :: dim // 4] = (np.sin(by_row), np.cos(by_row), np.sin(by_column), np.cos(by_column))
    flat = torch.from_numpy(table.reshape(1, rows * rows, dim)).float()
    return torch.cat([torch.zeros(1, 1, dim), flat], 1)


@pytest.mark.parametrize("wrap", [as_mocov3, as_mocov3_linear])
def test_moco_v3_small_has_twelve_heads(
    wrap: Callable[[State], object], tmp_path: Path, disturb: Any, agrees: Any
) -> None:
    """Nothing in the weights' shapes tells them from timm's vit_small, which has 6."""
    reference = disturb(ViT(dim=384, heads=12, depth=2))
    reference.pos_embed.data = sines(4, 384)
    path = tmp_path / "vit-s-300ep.pth.tar"
    torch.save(wrap(reference.state_dict()), path)
    small = {"depth": 2, "patch_size": 8, "img_size": 32}
    model, report = agrees(reference, reference.blocks, "vit_small_patch16_224", path, **small)
    assert model.blocks[0].attn.num_heads == 12
    assert not report.missing
    assert not report.unexpected
    torch.save({"model": disturb(reference).state_dict()}, path)  # learnt positions: not MoCo v3's
    model, _ = build("vit_small_patch16_224", weights=path, **small)
    assert model.blocks[0].attn.num_heads == 6


def test_fixed_positions_tell_mae_from_moco_v3() -> None:
    """Both give out encoders alone, under the same names; MoCo v3's sines begin with the row."""
    state = ViT(dim=384, heads=6, depth=12).state_dict()
    assert recognised(state).format == "ViT"
    moco = recognised(state | {"pos_embed": sines(4, 384)})
    assert (moco.method, moco.options) == ("mocov3", {"num_heads": 12})
    swapped = sines(4, 384)[:, 1:].reshape(1, 4, 4, 384).transpose(1, 2).reshape(1, 16, 384)
    mae = recognised(state | {"pos_embed": torch.cat([torch.zeros(1, 1, 384), swapped], 1)})
    assert (mae.format, mae.method, mae.options) == ("MAE, encoder", "mae", {})
    assert mae.normalisation == moco.normalisation == IMAGENET


def recognised(state: State) -> Encoder:
    encoder = recognise(state, lambda _: False)
    assert encoder is not None
    return encoder


def test_student_and_teacher_are_told_apart(tmp_path: Path, disturb: Any, agrees: Any) -> None:
    teacher, student = disturb(ViT()), ViT()
    content = as_dino(teacher.state_dict())
    assert isinstance(content, dict)
    content["student"] = under("module.backbone.", student.state_dict()) | under("module.", some(*DINO_HEAD))
    torch.save(content, tmp_path / "checkpoint.pth")
    for part, reference in (("teacher", teacher), ("student", student), (None, teacher)):
        agrees(
            reference, reference.blocks, "vit_tiny_patch16_224", tmp_path / "checkpoint.pth",
            part=part, **SMALL,
        )  # fmt: skip


@pytest.mark.parametrize("case", ["mae", "dinov2, registers", "deit, distilled", "deit3"])
@pytest.mark.parametrize("damage", ["dropped", "renamed", "transposed", "cut"])
def test_any_damaged_key_is_named(case: str, damage: str, tmp_path: Path, disturb: Any) -> None:
    kind = CASES[case]
    reference = disturb(ViT(**kind.model))
    path = tmp_path / "checkpoint.pth"
    for key in ("cls_token", "pos_embed", "blocks.1.attn.qkv.weight", "blocks.2.norm1.bias"):
        state = kind.state(reference)
        tensor = state.pop(key)
        if damage == "renamed":
            state[f"{key}_x"] = tensor
        elif damage == "transposed":
            state[key] = tensor.mT if tensor.ndim > 1 else tensor[:, None]
        elif damage == "cut":
            state[key] = tensor[..., :-1]
        torch.save(kind.wrap(state), path)
        with pytest.raises(UserError, match=key.replace(".", r"\.")):
            build(kind.arch, weights=path, num_classes=0, **SMALL)
