"""A backbone without its last blocks, against the whole one."""

import dataclasses
from typing import Any

import pytest
import torch
from contract_families import FAMILIES, Family, images, lively
from torch import Tensor, nn

from bench.backbones.build import remove_last_blocks
from bench.backbones.extract import FeatureExtractor
from bench.backbones.timm_models import create
from bench.errors import UserError
from bench.tasks import find

# Two blocks at the end, so that one can go.
DEEP: dict[str, dict[str, Any]] = {
    "Swin": {"depths": (1, 1, 1, 2)},
    "SwinV2": {"depths": (1, 1, 1, 2)},
    "Hiera": {"stages": (1, 1, 1, 2)},
    "SAM 2": {"stages": (1, 1, 2, 2), "global_att_blocks": (3,)},
}
PLAIN = [name for name, family in FAMILIES.items() if family.plain]
CONVOLUTIONS = ["ConvNeXt", "ResNet", "EfficientNet"]


def deep(name: str) -> Family:
    family = FAMILIES[name]
    deeper = {"depth": 6} if "depth" in family.options else DEEP.get(name, {})
    return dataclasses.replace(family, options=family.options | deeper)


def made(family: Family, count: int) -> nn.Module:
    options = {"img_size": family.img_size, "timm_options": family.options}
    model = lively(create(family.arch, seed=0, **options)[0])  # type: ignore[arg-type]
    if count:
        remove_last_blocks(model, family.arch, count)
    return model


def blocks_of(model: Any) -> list[nn.Module]:
    holder = model if hasattr(model, "blocks") else model.layers[-1]
    return list(holder.blocks)


def seen(model: nn.Module, block: nn.Module, given: Tensor) -> Tensor:
    """What a block gives, while the model sees images."""
    found: list[Tensor] = []
    hook = block.register_forward_hook(lambda *arguments: found.append(arguments[-1]))
    with torch.no_grad():
        model.forward_features(given)  # type: ignore[operator]
    hook.remove()
    return found[0]


@pytest.mark.parametrize("name", [*PLAIN, *DEEP])
def test_what_is_left_computes_what_it_did(name: str) -> None:
    family = deep(name)
    whole, short = made(family, 0), made(family, 1)
    given = images(*family.size)

    assert len(blocks_of(short)) == len(blocks_of(whole)) - 1
    expected = seen(whole, blocks_of(whole)[-2], given)
    assert torch.equal(seen(short, blocks_of(short)[-1], given), expected)


@pytest.mark.parametrize("name", [*PLAIN, *DEEP])
def test_the_contract_holds_of_what_is_left(name: str) -> None:
    family = deep(name)
    whole = FeatureExtractor(made(family, 0), arch=family.arch, frozen=True)
    short = FeatureExtractor(made(family, 1), arch=family.arch, frozen=True)
    given = images(*family.size)

    assert (short.channels, short.strides) == (whole.channels, whole.strides)
    assert not torch.equal(short(given)[-1], whole(given)[-1])
    assert len(short(given)) == len(whole(given))


@pytest.mark.parametrize("name", PLAIN)
def test_maps_are_those_of_an_earlier_block(name: str) -> None:
    family = deep(name)
    depth = len(blocks_of(made(family, 0)))
    whole = FeatureExtractor(made(family, 0), arch=family.arch, out_indices=[depth - 3])
    short = FeatureExtractor(made(family, 2), arch=family.arch, out_indices=[-1])
    given = images(*family.size)

    torch.testing.assert_close(short.eval()(given)[0], whole.eval()(given)[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_has_no_blocks_to_drop(name: str) -> None:
    with pytest.raises(UserError, match=rf"{FAMILIES[name].arch} cannot be dropped: it is not a tran"):
        create(FAMILIES[name].arch, drop_blocks=1)


def test_one_block_is_left() -> None:
    with pytest.raises(UserError, match=r"last 6 blocks of test_vit cannot be dropped: at most 5"):
        create("test_vit", drop_blocks=6)
    with pytest.raises(UserError, match="its last stage is a single block"):
        create("swin_tiny_patch4_window7_224", drop_blocks=1, timm_options={"depths": (1, 1, 1, 1)})


def test_a_protocol_is_derived_by_its_name() -> None:
    (task,) = find(["depth"])
    whole, short = task.protocol("frozen"), task.protocol("frozen-drop2")

    assert (short.name, short.drop_blocks, short.frozen) == ("frozen-drop2", 2, True)
    assert short == dataclasses.replace(
        whole, name=short.name, source=short.source, expected=short.expected, command="", drop_blocks=2
    )
    assert "last 2 block" in short.source
    digests = {task.digest(p, "data") for p in (whole, short, task.protocol("frozen-drop1"))}
    assert len(digests) == 3


@pytest.mark.parametrize("name", ["frozen-drop0", "frozen-drop", "frozn-drop1", "frozen-drop1-drop1"])
def test_other_names_are_unknown(name: str) -> None:
    (task,) = find(["depth"])
    with pytest.raises(UserError, match=f"Unknown protocol of depth/scenes '{name}'. Did you mean"):
        task.protocol(name)


def test_a_family_that_knows_nothing_of_it_refuses() -> None:
    (task,) = find(["depth"])
    deaf = dataclasses.replace(task, upstream=lambda task, protocol: {})
    with pytest.raises(UserError, match="depth/scenes cannot drop a backbone's last blocks"):
        deaf.protocol("frozen-drop1")
