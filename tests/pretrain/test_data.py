"""Which image and which crop a batch has, whoever makes it; and what happens to bad images."""

import logging
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from picture_folders import folder
from torch import Tensor

from bench.errors import UserError
from bench.scenes.world import World
from pretrain import data
from pretrain.data import CropBatches, RawBatch, loader
from pretrain.sources import ImageSource, source

SMALL = {"batch_size": 6, "img_size": 8, "seed": 3}
TENSORS = ("images", "others", "labels", "occluders", "slots")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def twenty(tmp_path_factory) -> ImageSource:
    return source(folder(tmp_path_factory.mktemp("twenty"), 20, classes=2))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> ImageSource:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return source("scenes", world=World(train=10, val=10, videos=4, frames=2, swaps=1, size=64))


def batches(
    found: ImageSource, count: int = 4, *, start_iteration: int = 0, num_workers: int = 0, **options: object
) -> list[RawBatch]:
    made = CropBatches(found, **{**SMALL, **options})
    return list(islice(loader(made, start_iteration=start_iteration, num_workers=num_workers), count))


def same(a: RawBatch, b: RawBatch) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in TENSORS]
    return all(x is y if x is None else x.equal(y) for x, y in pairs)


def numbers(images: Tensor) -> list[int]:
    """The images' numbers, by their brightness."""
    return [round(float(image.float().mean()) - 20) for image in images]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_changes_nothing(scenes, num_workers):
    options = {"crops": 2, "occluders": True}
    here = batches(scenes, **options)
    there = batches(scenes, num_workers=num_workers, **options)
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert here[0].images.shape == here[0].others.shape == (6, 3, 8, 8)
    assert here[0].images.dtype == torch.uint8
    assert here[0].occluders.shape == (6, 8, 8)
    assert here[0].occluders.dtype == torch.bool
    assert not here[0].images.equal(here[0].others)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_that_starts_later_gives_what_the_first_one_would(twenty, num_workers):
    whole = batches(twenty, 6)
    resumed = batches(twenty, 3, start_iteration=3, num_workers=num_workers)
    assert all(same(a, b) for a, b in zip(whole[3:], resumed, strict=True))
    assert not any(same(a, b) for a, b in zip(whole[:3], resumed, strict=True))


def test_processes_share_the_batch_that_one_would_see(twenty):
    wholes = batches(twenty, 3)
    for rank in (0, 1):
        shares = batches(twenty, 3, rank=rank, world_size=2)
        for whole, share in zip(wholes, shares, strict=True):
            assert share.images.equal(whole.images[rank::2])
            assert share.slots.tolist() == [rank, rank + 2, rank + 4]
            assert share.batch_size == 6


def test_another_seed_gives_other_images_and_crops(twenty):
    assert not same(batches(twenty, 1)[0], batches(twenty, 1, seed=4)[0])


def test_every_epoch_has_each_image_once_in_an_order_of_its_own(twenty):
    seen = [number for batch in batches(twenty, 10) for number in numbers(batch.images)]
    epochs = [seen[:20], seen[20:40], seen[40:60]]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs), "batches reach over epochs' ends"
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_labels_are_those_of_the_images(twenty):
    for batch in batches(twenty):
        assert batch.labels.tolist() == [number % 2 for number in numbers(batch.images)]


def test_few_images_are_repeated_with_new_crops(tmp_path):
    one = source(folder(tmp_path, 20), images=1)
    first, second = batches(one, 2)
    assert len({*numbers(first.images), *numbers(second.images)}) == 1
    assert not first.images[0].equal(first.images[1])
    assert not first.images.equal(second.images)


def test_loading_leaves_the_generator_of_the_model_alone(twenty):
    before = torch.get_rng_state()
    batches(twenty, crops=2)
    assert torch.get_rng_state().equal(before)


def test_iterations_end_where_they_are_told_to(twenty):
    assert len(list(loader(CropBatches(twenty, **SMALL), start_iteration=2, iterations=5))) == 3


def test_a_batch_moves_with_all_that_a_device_needs(scenes):
    (batch,) = batches(scenes, 1, occluders=True)
    moved = batch.to("meta")
    assert {moved.images.device.type, moved.labels.device.type, moved.occluders.device.type} == {"meta"}
    assert moved.others is None
    assert moved.slots.device.type == "cpu"


def spoilt(root: Path, count: int, *bad: int) -> ImageSource:
    folder(root, count)
    for k in bad:
        path = root / f"{k:03d}.png"
        path.write_bytes(path.read_bytes()[:400])
    return source(root)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_is_replaced_by_the_next_counted_and_named_once(tmp_path, caplog, num_workers):
    found = spoilt(tmp_path, 150, 17)
    with caplog.at_level(logging.WARNING):
        seen = batches(found, 2, batch_size=150, num_workers=num_workers)
    assert list(found.skipped) == [str(tmp_path / "017.png")]
    assert len(caplog.messages) == 1
    assert "017.png" in caplog.messages[0]
    assert "truncated" in caplog.messages[0]
    for batch in seen:
        counts = Counter(numbers(batch.images))
        assert counts == Counter({k: 1 + (k == 18) for k in range(150) if k != 17})
    repeated = batches(spoilt(tmp_path, 150, 17), 2, batch_size=150)
    assert all(same(a, b) for a, b in zip(seen, repeated, strict=True)), "whoever finds it first"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_more_than_one_image_in_a_hundred_bad_stops_in_one_paragraph(tmp_path, num_workers):
    found = spoilt(tmp_path, 150, 17, 90)
    with pytest.raises(UserError) as raised:
        batches(found, 3, batch_size=75, num_workers=num_workers)
    message = str(raised.value)
    assert "2 of the 150 images" in message
    assert "1%" in message
    assert "017.png" in message or "090.png" in message
    assert "\n" not in message, "no traceback of a worker"


def test_a_source_of_bad_images_alone_stops(tmp_path):
    with pytest.raises(UserError, match="cannot be used"):
        batches(spoilt(tmp_path, 2, 0, 1))


def test_images_smaller_than_a_patch_are_skipped(twenty):
    with pytest.raises(UserError, match="24 x 24 pixels are fewer than a patch of 32"):
        batches(twenty, smallest=32)


def test_a_file_that_vanished_is_a_bad_image(tmp_path):
    found = source(folder(tmp_path, 150))
    (tmp_path / "003.png").unlink()
    batches(found, 1, batch_size=150)
    assert "No such file" in found.skipped[str(tmp_path / "003.png")]


def test_occluders_of_a_folder_are_refused(twenty):
    with pytest.raises(UserError, match="annotations of which things hide others"):
        CropBatches(twenty, occluders=True, **SMALL)


def test_the_order_of_a_large_set_is_a_permutation():
    assert sorted(data.image_of(0, k, 50) for k in range(100, 150)) == list(range(50))
