"""What becomes of every key of a weights file: in its place, accounted for, or a refusal by name."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from bench.backbones.build import build
from bench.errors import UserError

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def weights(arch: str) -> State:
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=0)
    return {k: v.clone().contiguous() for k, v in model.state_dict().items()}


def save(state: State, folder: Path) -> Path:
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors"


ARCHS = ("test_vit", "test_vit4", "test_resnet", "test_convnext", "test_efficientnet")
PER_ARCH = 12  # keys that are damaged in each way, evenly over the model


def some(state: State) -> Iterator[str]:
    keys = [k for k in state if not k.endswith("num_batches_tracked")]
    yield from keys[:: max(1, len(keys) // PER_ARCH)]


@pytest.mark.parametrize("arch", ARCHS)
def test_any_renamed_key_is_reported_by_both_its_names(tmp_path: Path, arch: str) -> None:
    whole = weights(arch)
    for key in some(whole):
        odd = key.replace(".", ".x", 1) if "." in key else f"{key}x"
        state = {odd if k == key else k: v for k, v in whole.items()}
        with pytest.raises(UserError) as caught:
            build(arch, weights=save(state, tmp_path), num_classes=0)
        assert f"1 missing ({key})" in str(caught.value)
        assert f"1 unexpected ({odd})" in str(caught.value)


@pytest.mark.parametrize("arch", ARCHS)
def test_any_dropped_key_is_reported(tmp_path: Path, arch: str) -> None:
    whole = weights(arch)
    for key in some(whole):
        state = {k: v for k, v in whole.items() if k != key}
        with pytest.raises(UserError) as caught:
            build(arch, weights=save(state, tmp_path), num_classes=0)
        assert f"1 missing ({key})" in str(caught.value)


@pytest.mark.parametrize("arch", ARCHS)
def test_any_transposed_or_misshapen_key_is_reported(tmp_path: Path, arch: str) -> None:
    """But for a square matrix transposed, which no shape gives away."""
    whole = weights(arch)
    for key in some(whole):
        for odd in (
            whole[key].permute(*range(whole[key].ndim)[::-1]),
            whole[key].repeat(2, *[1] * (whole[key].ndim - 1)),
        ):
            if odd.shape == whole[key].shape:
                continue
            state = whole | {key: odd.contiguous()}
            with pytest.raises(UserError) as caught:
                build(arch, weights=save(state, tmp_path), num_classes=0)
            shape = "x".join(map(str, odd.shape))
            assert f"1 of another shape ({key} {shape} instead of" in str(caught.value)


@pytest.mark.parametrize("arch", ARCHS)
def test_any_key_too_many_is_reported(tmp_path: Path, arch: str) -> None:
    whole = weights(arch)
    for key in some(whole):
        extra = f"{key.rpartition('.')[0]}.gamma_9".lstrip(".")
        with pytest.raises(UserError) as caught:
            build(arch, weights=save(whole | {extra: torch.ones(3)}, tmp_path), num_classes=0)
        assert f"1 unexpected ({extra})" in str(caught.value)


def test_what_is_allowed_to_be_partial_is_and_stays_in_the_report(tmp_path: Path) -> None:
    whole = weights("test_vit")
    state = {k: v for k, v in whole.items() if not k.startswith("blocks.1.mlp.fc1")}
    state["blocks.1.extra"] = torch.ones(64)
    state["blocks.0.mlp.fc2.bias"] = torch.ones(3)
    path = save(state, tmp_path)
    allowed = ("blocks.1.*", "blocks.0.mlp.fc2.bias")

    with pytest.raises(UserError, match=r"1 of another shape \(blocks.0.mlp.fc2.bias 3"):
        build("test_vit", weights=path, num_classes=0, allow_partial=allowed[:1])
    model, report = build("test_vit", weights=path, num_classes=0, allow_partial=allowed)

    assert set(report.missing) == {*("blocks.1.mlp.fc1.weight", "blocks.1.mlp.fc1.bias", "blocks.0.mlp.fc2.bias")}
    assert report.unexpected == ("blocks.1.extra",)
    assert report.matched == len(whole) - 3
    found = model.state_dict()
    assert all(found[k].equal(v) for k, v in whole.items() if k not in report.missing)
    fresh = found["blocks.1.mlp.fc1.weight"]
    assert fresh.std() > 0, "initialised, as a backbone from scratch is"
    assert not fresh.equal(whole["blocks.1.mlp.fc1.weight"])


def test_the_report_is_one_line_with_counts_and_names(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in weights("test_vit").items()}
    state |= {"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)}
    _, report = build("test_vit", weights=save(state, tmp_path), num_classes=0, img_size=64)

    line = str(report)
    assert "\n" not in line
    assert f"{len(state) - 2} matched, 0 missing, 0 unexpected" in line
    assert "1 resampled (pos_embed 1x101x64 -> 1x17x64)" in line
    assert f"{len(state) - 2} cast from float16" in line
    assert "2 of its pretraining left over (head.bias, head.weight)" in line


@pytest.mark.parametrize(("file", "model"), [("token", "avg"), ("avg", "token")])
def test_a_norm_lands_where_the_pooling_of_its_file_has_it(tmp_path: Path, file: str, model: str) -> None:
    """A ViT that averages has `fc_norm` behind the pooling, one that reads its class token `norm`."""
    torch.manual_seed(0)
    kwargs = {"depth": 2, "num_classes": 0}
    source = timm.create_model("vit_tiny_patch16_224", global_pool=file, **kwargs)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = save(dict(source.state_dict()), tmp_path)

    built, report = build("vit_tiny_patch16_224", weights=path, global_pool=model, **kwargs)

    images = torch.randn(2, 3, 224, 224)
    assert report.missing == ()
    with torch.inference_mode():
        assert torch.equal(built.eval()(images), source.eval()(images))


def test_scratch_loads_nothing() -> None:
    _, report = build("test_vit")
    assert report.matched == 0
    assert report.format == ""


def test_buffers_survive_a_load(tmp_path: Path) -> None:
    """Weights replace parameters that were never allocated; what a model computes for itself stays."""
    torch.manual_seed(0)
    source = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, depths=(1, 1, 2, 1))
    path = save({k: v.contiguous() for k, v in source.state_dict().items()}, tmp_path)
    built, _ = build("swin_tiny_patch4_window7_224", weights=path, num_classes=0, depths=(1, 1, 2, 1))
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(built.eval()(images), source.eval()(images))
    assert not any(p.is_meta for p in [*built.parameters(), *built.buffers()])
    assert all(p.requires_grad for p in built.parameters())
