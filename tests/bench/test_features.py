"""Features are extracted once, are what the model says, and are never trusted unread."""

import contextlib
import logging
import resource

import pytest
import torch
from torch import nn

from bench.errors import UserError
from bench.features import Features, extract

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
    return extract(
        model or MeanColour(), images or Colours(), key=key, cache=cache, device="cpu", **options
    )


def only_file(cache):
    (path,) = (cache / "features").iterdir()
    return path


def test_features_are_the_models_output_in_eval_mode(tmp_path):
    made = run(tmp_path, batch_size=3)
    assert torch.equal(made.features, torch.arange(10.0)[:, None] * torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(made.labels, torch.arange(10) % 3)


def test_the_second_call_does_not_run_the_model(tmp_path):
    model = MeanColour()
    first, second = run(tmp_path, model), run(tmp_path, model)
    assert model.asked == 10
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.labels, second.labels)
    assert first.seconds > 0
    assert second.seconds == 0
    assert second.images_per_second == first.images_per_second


def test_another_key_is_another_file(tmp_path):
    model = MeanColour()
    run(tmp_path, model)
    run(tmp_path, model, key={**KEY, "split": "val"})
    assert model.asked == 20
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_the_order_of_the_keys_means_nothing(tmp_path):
    model = MeanColour()
    run(tmp_path, model)
    run(tmp_path, model, key=dict(reversed(KEY.items())))
    assert model.asked == 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_neither_batch_size_nor_workers_matter(tmp_path, num_workers):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    one = run(tmp_path / "one", model, batch_size=1)
    many = run(tmp_path / "many", model, batch_size=10, num_workers=num_workers)
    assert (one.features - many.features).abs().max() <= 1e-5 * one.features.abs().max()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def write_something_else(path):
    path.write_bytes(b"not a file of features")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, write_something_else, empty])
def test_a_damaged_file_is_made_again_and_said(tmp_path, caplog, damage):
    first = run(tmp_path)
    damage(only_file(tmp_path))
    model = MeanColour()
    with caplog.at_level(logging.WARNING):
        again = run(tmp_path, model)
    assert model.asked == 10
    assert torch.equal(again.features, first.features)
    assert "made again" in caplog.text
    run(tmp_path, model)
    assert model.asked == 10


def test_a_foreign_file_under_our_name_is_not_trusted(tmp_path, caplog):
    run(tmp_path / "a")
    run(tmp_path / "b", key={**KEY, "split": "val"})
    only_file(tmp_path / "a").replace(only_file(tmp_path / "b"))
    model = MeanColour()
    run(tmp_path / "b", model, key={**KEY, "split": "val"})
    assert model.asked == 10
    assert "something else" in caplog.text


@contextlib.contextmanager
def files_no_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path):
    with files_no_larger_than(100), pytest.raises(UserError, match=r"Free some space") as error:
        run(tmp_path)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "features").iterdir()) == []
    assert len(run(tmp_path).labels) == 10


def test_a_cache_that_is_a_file_is_the_users_mistake(tmp_path):
    (tmp_path / "features").write_text("")
    with pytest.raises(UserError, match="cannot be kept"):
        run(tmp_path)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_one_paragraph_whatever_process_read_it(tmp_path, num_workers):
    with pytest.raises(UserError) as error:
        run(tmp_path, images=Broken(), num_workers=num_workers)
    assert str(error.value) == "The image seven.png cannot be read. Replace it."


def test_features_that_are_not_finite_are_refused(tmp_path):
    model = nn.Sequential(MeanColour(), nn.Threshold(1e9, float("nan")))
    with pytest.raises(UserError, match="10 of 10"):
        run(tmp_path, model)
    assert not (tmp_path / "features").exists()
