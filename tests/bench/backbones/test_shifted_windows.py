"""Swin on maps that do not divide into windows, against transformers' port of the official code."""

import copy
import pickle
import re

import pytest
import timm
import torch
from torch import Tensor, nn

from bench.backbones.build import pad_before_shifting
from bench.backbones.timm_models import create

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
SIZES = [(168, 168), (160, 160), (136, 176)]  # maps of 42, 40, 34 x 44: whole windows of 7 in the first


def transformers_swin(model: nn.Module) -> nn.Module:
    """The same weights in transformers."""
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=7, drop_path_rate=0.0)
    swin = SwinModel(config, add_pooling_layer=False).eval()
    names = {
        "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
        "patch_embed.norm.": "embeddings.norm.",
        ".norm1.": ".layernorm_before.",
        ".norm2.": ".layernorm_after.",
        ".attn.proj.": ".attention.o_proj.",
        ".attn.relative_position_bias_table": ".attention.relative_position_bias.relative_position_bias_table",
        "layers.1.downsample.": "layers.0.downsample.",  # timm merges at the head of a stage
    }
    renamed: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        key = f"encoder.{key}" if key.startswith("layers.") else re.sub("^norm", "layernorm", key)
        if ".attn.qkv." in key:
            for part, of_it in zip("qkv", value.chunk(3), strict=True):
                renamed[key.replace("attn.qkv", f"attention.{part}_proj")] = of_it
        else:
            renamed[key] = value
    swin.load_state_dict(renamed)
    return swin


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_equals_the_official_order_of_padding_and_shifting(size: tuple[int, int]) -> None:
    model, _ = create("swin_tiny_patch4_window7_224", seed=0, timm_options=SMALL)
    for name, table in model.named_parameters():
        if "relative_position_bias_table" in name:
            nn.init.normal_(table)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found = model.eval().forward_features(x)
    expected = transformers_swin(model)(x).last_hidden_state
    torch.testing.assert_close(found.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224"])
@torch.no_grad()
def test_opposite_edges_do_not_see_each_other(arch: str) -> None:
    model, _ = create(arch, seed=0, timm_options=SMALL)
    for parameter in model.parameters():  # SwinV2's last norm in a block starts at 0
        parameter.add_(0.1)
    x = torch.randn(1, 3, 184, 184, generator=torch.Generator().manual_seed(0))
    marked = x.clone()
    marked[:, :, :4] += 10

    def changed() -> list[int]:
        maps = [
            model.eval().forward_intermediates(image, indices=[0], intermediates_only=True)[0] for image in (x, marked)
        ]
        rows = (maps[0] - maps[1]).abs().amax((0, 1, 3))
        return rows.nonzero().flatten().tolist()

    assert max(changed()) < 22
    for module in model.modules():
        vars(module).pop("_attn", vars(module).pop("_shifted_window_attn", None))
    assert max(changed()) == 45  # timm's own order: once this fails, `bench.backbones.build` can go


def test_where_windows_divide_the_map_nothing_changes() -> None:
    options = {**SMALL, "dynamic_img_size": True, "num_classes": 0}
    model = timm.create_model("swin_tiny_patch4_window7_224", **options).eval()
    x = torch.randn(1, 3, 224, 224)
    before = model(x)
    pad_before_shifting(model)
    assert torch.equal(before, model(x))


@torch.no_grad()
def test_a_copy_attends_with_its_own_weights() -> None:
    """As an average over training does, and a model sent to another process."""
    model, _ = create("swin_tiny_patch4_window7_224", seed=0, timm_options=SMALL)
    x = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = copied.eval()(x)
        for parameter in model.parameters():
            parameter.mul_(2)
        assert torch.equal(copied(x), before)
        assert copied.layers[0].blocks[1]._attn.args[0] is copied.layers[0].blocks[1]
