"""Window attention against timm's VisionTransformerSAM, which is ViTDet's backbone."""

import pytest
import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from adapters.openmmlab.backbone import TimmBackbone
from adapters.openmmlab.window import GridAttention
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, PATCH, WIDTH, DEPTH, HEADS = 80, 16, 64, 4, 4
TINY = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}


def windowed(window_size: int = 3, global_blocks: int = 2, **timm_options: object) -> TimmBackbone:
    """A small ViT whose weights, relative positions included, are all random."""
    backbone = TimmBackbone(
        "vit_tiny_patch16_224",
        img_size=SIZE,
        window_size=window_size,
        global_blocks=global_blocks,
        seed=0,
        timm_options={**TINY, **timm_options},
    ).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in backbone.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return backbone


def reference(backbone: TimmBackbone, global_blocks: tuple[int, ...]) -> VisionTransformerSAM:
    """The same weights in timm's ViTDet backbone."""
    model = backbone.model
    block = model.blocks[0]
    sam = VisionTransformerSAM(
        img_size=SIZE,
        patch_size=PATCH,
        **TINY,
        qk_norm=not isinstance(block.attn.q_norm, nn.Identity),
        init_values=None if isinstance(block.ls1, nn.Identity) else 1.0,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=global_blocks,
        norm_layer=lambda width, **where: nn.LayerNorm(width, eps=1e-6, **where),
        neck_chans=0,
    ).eval()
    weights = dict(model.state_dict())
    weights["pos_embed"] = weights["pos_embed"].unflatten(1, (SIZE // PATCH,) * 2)
    missing, unexpected = sam.load_state_dict(weights, strict=False)
    assert all(name.startswith(("neck", "head")) for name in missing)
    assert set(unexpected) == {"norm.weight", "norm.bias"}
    return sam


def maps(sam: VisionTransformerSAM, norm: nn.Module, images: Tensor) -> list[Tensor]:
    found = sam.forward_intermediates(images, indices=[1, 3], intermediates_only=True)
    return [norm(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for m in found]


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "init_values": 0.5}])
@pytest.mark.parametrize("size", [(80, 80), (48, 112)])
def test_equals_timms_vitdet_backbone(size: tuple[int, int], options: dict[str, object]) -> None:
    """Blocks 1 and 3 are global; a grid of 5x5 or 3x7 does not divide into windows of 3x3."""
    backbone = windowed(**options)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = backbone.model.forward_intermediates(images, indices=[1, 3], norm=True, intermediates_only=True)
        expected = maps(reference(backbone, (1, 3)), backbone.model.norm, images)

    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape == (2, WIDTH, size[0] // PATCH, size[1] // PATCH)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_relative_positions_start_at_zero_and_learn() -> None:
    backbone = TimmBackbone("vit_tiny_patch16_224", img_size=SIZE, window_size=3, timm_options=TINY)
    tables = {n: p for n, p in backbone.named_parameters() if "rel_pos" in n}
    backbone(torch.randn(1, 3, 64, 96))[-1].square().sum().backward()

    assert len(tables) == 2 * DEPTH
    assert all(not p.any() and p.grad is not None and p.grad.any() for p in tables.values())


@pytest.mark.parametrize(
    ("arch", "expected"), [("vit_tiny_patch16_224", [2, 5, 8, 11]), ("vit_large_patch16_224", [5, 11, 17, 23])]
)
def test_global_blocks_are_vitdets(arch: str, expected: list[int]) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone(arch, img_size=224, window_size=14)
    sizes = [block.attn.window_size for block in backbone.model.blocks]

    assert [i for i, size in enumerate(sizes) if size == 0] == expected
    assert {size for size in sizes if size} == {14}


@pytest.mark.parametrize("arch", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_224", "deit3_small_patch16_224"])
def test_class_and_register_tokens_are_dropped(arch: str) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone(arch, img_size=112, window_size=4)
        names = dict(backbone.named_parameters())
        found = backbone(torch.zeros(1, 3, 112, 70))[-1]

    patch = backbone.strides[0]
    assert not any("cls_token" in n or "reg_token" in n for n in names)
    assert names["model.pos_embed"].shape[1] == (112 // patch) ** 2
    assert found.shape[2:] == (112 // patch, -(-70 // patch))


@pytest.mark.parametrize("arch", ["swinv2_tiny_window8_256", "hiera_tiny_224", "test_resnet"])
def test_other_architectures_stay_as_they_are(arch: str) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone(arch, window_size=14)
    assert not any(isinstance(m, GridAttention) for m in backbone.modules())


def test_plain_backbone_with_another_attention_is_refused() -> None:
    with torch.device("meta"), pytest.raises(UserError, match=r"beit_base.* window_size needs"):
        TimmBackbone("beit_base_patch16_224", window_size=14)


def test_runs_in_bf16_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        backbone = windowed(qk_norm=True)
        found = backbone(torch.randn(1, 3, 64, 96))[-1]
        found.float().square().sum().backward()
    assert found.isfinite().all()
