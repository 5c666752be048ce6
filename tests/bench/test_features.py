"""Features are extracted once, are what the model says, and are never trusted unread."""

import contextlib
import logging
import resource

import pytest
import timm
import torch
from torch import nn

from bench.errors import UserError
from bench.features import POOLED, Features, extract, limit, main, vectors

KEY = {"backbone": "mean colour", "split": "train"}


class MeanColour(nn.Module):
    """Features [b, 3] in closed form; counts the images it was asked about."""

    def __init__(self):
        super().__init__()
        self.asked = 0
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        self.asked += len(images)
        return self.dropout(images.mean((2, 3)))


class Colours(torch.utils.data.Dataset):
    """Image i is one colour, (i, 2 i, 3 i); its label is i modulo 3."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        colour = index * torch.tensor([1.0, 2.0, 3.0])
        return colour.view(3, 1, 1).expand(3, 4, 4), index % 3


class Broken(Colours):
    def __getitem__(self, index):
        if index == 7:
            raise UserError("The image seven.png cannot be read. Replace it.")
        return super().__getitem__(index)


def run(cache, model=None, images=None, key=KEY, **options) -> Features:
    return extract(model or MeanColour(), images or Colours(), key=key, cache=cache, device="cpu", **options)


def files(cache, suffix=""):
    return sorted((cache / "features").glob(f"*{suffix}"))


def test_features_are_the_models_output_in_eval_mode(tmp_path):
    made = run(tmp_path, batch_size=3)
    assert torch.equal(made.pooled, torch.arange(10.0)[:, None] * torch.tensor([1.0, 2.0, 3.0]))


def test_the_second_call_does_not_run_the_model(tmp_path):
    model = MeanColour()
    first, second = run(tmp_path, model), run(tmp_path, model)
    assert model.asked == 10
    assert torch.equal(first.pooled, second.pooled)
    assert first.seconds > 0
    assert second.seconds == 0
    assert second.images_per_second == first.images_per_second


def test_writing_to_features_changes_no_file(tmp_path):
    run(tmp_path).pooled.zero_()
    assert run(tmp_path, model := MeanColour()).pooled.sum() == 270  # (1 + 2 + 3) * 45
    assert model.asked == 0


def test_another_key_is_another_entry(tmp_path):
    model = MeanColour()
    run(tmp_path, model)
    run(tmp_path, model, key={**KEY, "split": "val"})
    assert model.asked == 20
    assert len(files(tmp_path, ".npy")) == 2


def test_other_weights_are_another_entry(tmp_path):
    """One value of one buffer, which another loader may have left as it was."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    first = run(tmp_path, model).pooled
    assert torch.equal(run(tmp_path, model).pooled, first)
    model[0].running_mean[1] = 1.0
    second = run(tmp_path, model).pooled
    assert (first - second)[:, 1].tolist() == pytest.approx([1.0] * 10, abs=1e-4)


def test_the_order_of_the_keys_means_nothing(tmp_path):
    model = MeanColour()
    run(tmp_path, model)
    run(tmp_path, model, key=dict(reversed(KEY.items())))
    assert model.asked == 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_neither_batch_size_nor_workers_matter(tmp_path, num_workers):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    one = run(tmp_path / "one", model, batch_size=1).pooled
    many = run(tmp_path / "many", model, batch_size=10, num_workers=num_workers).pooled
    assert (one - many).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.parametrize("arch", ["test_vit", "test_vit2", "test_convnext", "test_resnet"])
def test_layers_are_those_of_the_model_in_one_pass(arch):
    """Pooled as the model alone gives it, bit for bit; maps as timm's own getter does."""
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=0).eval()
    size = model.default_cfg["input_size"]
    images = torch.randn(2, *size)
    maps = {"feature_cls": "getter", "features_only": True, "out_indices": [0, 1]}
    torch.manual_seed(0)
    getter = timm.create_model(arch, **maps).eval()
    getter.load_state_dict({f"model.{k}": v for k, v in model.state_dict().items()}, strict=False)
    with torch.inference_mode():
        found = vectors(model, images, [1, POOLED, 0])
        first, second = getter(images)
        assert torch.equal(found[POOLED], model(images))
        assert torch.equal(vectors(model, images, [POOLED])[POOLED], model(images))
        assert torch.allclose(found[0], first.flatten(2).mean(2), atol=1e-6)
        assert torch.equal(vectors(model, images, [0])[0], found[0])
        assert torch.allclose(found[1], second.flatten(2).mean(2), atol=1e-6)


def test_a_layer_that_is_there_is_not_made_again(tmp_path):
    """Asked for one more layer, only that one is written; the other keeps its file."""
    model = timm.create_model("test_vit", num_classes=0, img_size=32)

    class Noise(Colours):
        def __getitem__(self, index):
            return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index)), 0

    alone = run(tmp_path, model, Noise())
    (path,) = files(tmp_path, ".npy")
    made = path.stat().st_ino
    both = run(tmp_path, model, Noise(), layers=[0, POOLED])
    assert torch.equal(both.pooled, alone.pooled)
    assert both.layers[0].shape == (10, 64)
    assert path.stat().st_ino == made
    assert len(files(tmp_path, ".npy")) == 2
    assert run(tmp_path, model, Noise(), layers=[0, POOLED]).seconds == 0


@contextlib.contextmanager
def files_no_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 200])  # in the header; in the rows
def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path, size):
    with files_no_larger_than(size), pytest.raises(UserError, match="Free some space") as error:
        run(tmp_path)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == []
    assert len(run(tmp_path).pooled) == 10


def test_a_cache_that_is_a_file_is_the_users_mistake(tmp_path):
    (tmp_path / "features").write_text("")
    with pytest.raises(UserError, match="cannot be cached"):
        run(tmp_path)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_one_paragraph_whatever_process_read_it(tmp_path, num_workers):
    with pytest.raises(UserError) as error:
        run(tmp_path, images=Broken(), num_workers=num_workers)
    assert str(error.value) == "The image seven.png cannot be read. Replace it."
    assert files(tmp_path) == []


def test_features_that_are_not_finite_are_refused(tmp_path):
    class Overflows(MeanColour):
        def forward(self, images):
            colours = super().forward(images)
            return colours.where(colours < 12, float("inf"))

    with pytest.raises(UserError, match="for 2 of the images 4 to 6"):
        run(tmp_path, Overflows(), batch_size=3)
    assert files(tmp_path) == []


def shown(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_the_command_says_what_the_cache_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("BENCH_CACHE_LIMIT", "1.5")
    monkeypatch.setenv("COLUMNS", "160")
    assert "0 entries, 0.000 of 1.5 GB" in shown(capsys)
    key = {"arch": "vit", "data": "f", "split": "val"}
    names = {"backbone": "mae", "weights": "abcdef01", "data": "pets"}
    kept = run(tmp_path, key={**key, "transform": {"img_size": 96}}, about=names)
    row = next(line for line in shown(capsys).splitlines() if "mae" in line).split()
    assert row[:7] == ["mae", "abcdef01", "pets", "val", "96", "pooled", "10"]
    assert row[-2:] == ["in", "use"]
    assert "Deleted 0 entries" in shown(capsys, "--clear")
    del kept
    assert " whole" in shown(capsys)
    said = shown(capsys, "--clear")
    assert "Deleted 1 entries" in said
    assert "0 entries" in said
    assert files(tmp_path) == []


def test_a_limit_that_is_no_number_stops_before_the_extraction(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE_LIMIT", "lots")
    with pytest.raises(UserError, match="BENCH_CACHE_LIMIT is 'lots'"):
        run(tmp_path, model := MeanColour())
    assert model.asked == 0
    assert main([]) == 2
    assert "BENCH_CACHE_LIMIT is 'lots'" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "size"), [(None, 20e9), ("1.5", 1.5e9), ("0", 0), ("inf", float("inf"))])
def test_the_limit_is_in_gigabytes(monkeypatch, given, size):
    monkeypatch.delenv("BENCH_CACHE_LIMIT", raising=False)
    if given:
        monkeypatch.setenv("BENCH_CACHE_LIMIT", given)
    assert limit() == size


@pytest.mark.parametrize("given", ["-1", "20 GB", "", "nan"])
def test_another_limit_is_the_users_mistake(monkeypatch, given):
    monkeypatch.setenv("BENCH_CACHE_LIMIT", given)
    with pytest.raises(UserError, match="gigabytes"):
        limit()


def test_damage_is_found_and_the_features_made_again(tmp_path, caplog):
    first = run(tmp_path).pooled.clone()
    (path,) = files(tmp_path, ".npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = run(tmp_path, model := MeanColour()).pooled
    assert torch.equal(again, first)
    assert model.asked == 10
    assert "extracted again" in caplog.text
    run(tmp_path, model)
    assert model.asked == 10
