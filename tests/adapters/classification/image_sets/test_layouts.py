"""Every layout is read as its authors mean it, by split; entries and groups are complete."""

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from family_jobs import real_data
from labelled_miniatures import MINIATURES

from adapters.classification.data import splits_of
from adapters.classification.image_sets import entries as large
from adapters.classification.image_sets import entries as transfer
from adapters.classification.image_sets.checked import read_split
from adapters.classification.image_sets.entries import GROUPS, K12, TABLE
from adapters.classification.image_sets.labelled import LabelledImages, Lists
from bench import tasks
from bench.datasets.images import read
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("unpublished")


@pytest.mark.parametrize("name", MINIATURES)
def test_the_official_splits_are_read(tmp_path: Path, name: str) -> None:
    entry, write = MINIATURES[name]
    expected = write(tmp_path / entry.root)
    folder = entry.locate(tmp_path)
    assert entry.splits.keys() == expected.keys()
    for split, rows in expected.items():
        found = read_split(entry, folder, split)
        labels = [tuple(y) if found.labels.ndim > 1 else int(y) for y in found.labels]
        assert labels == [label for _, label in rows]
        assert len(found.classes) >= 3
        if isinstance(found.images, np.ndarray):
            assert found.images.shape == (len(rows), 32, 32, 3)
            assert found.images.mean((1, 2)).argmax(1).tolist() == labels
        else:
            assert list(found.images) == [folder / path for path, _ in rows]


@pytest.mark.parametrize("name", MINIATURES)
def test_what_is_trained_on_and_what_is_reported_on(tmp_path: Path, name: str) -> None:
    """The official validation split is a part of what is trained on, and known."""
    entry, write = MINIATURES[name]
    counts = {split: len(rows) for split, rows in write(tmp_path / entry.root).items()}
    train, test = splits_of(entry, entry.locate(tmp_path))
    held_out = counts.get("val", 0) if entry.validation else 0
    assert len(train.labels) == counts["train"] + held_out
    assert len(test.labels) == counts[entry.reported_on]
    assert (train.held_out is None) == (not entry.validation)
    assert held_out == (0 if train.held_out is None else train.held_out.sum())
    assert read(train.paths[0]).size == (32, 32)
    some, _ = splits_of(entry, entry.locate(tmp_path), limit=6)
    assert len(some.labels) == 6
    groups = some.labels if some.labels.ndim == 1 else some.labels.argmax(1)
    assert len(set(groups.tolist())) == 3
    assert some.held_out is None or some.held_out.sum() == 3


def test_two_splits_never_share_a_fingerprint(tmp_path: Path) -> None:
    """Not even where the one's train is the other's val, of the very same files."""
    for name in ("dtd", "cog-2"):
        entry, write = MINIATURES[name]
        write(tmp_path / entry.root)
    labels = tmp_path / "dtd/dtd/labels"
    for split in range(3, 11):
        for part in ("train", "val", "test"):
            shutil.copy(labels / f"{part}1.txt", labels / f"{part}{split}.txt")
    alike = [transfer.dtd(split) for split in range(1, 11)] + [large.cog(k) for k in range(1, 6)]
    swapped = dataclasses.replace(alike[0], splits={"train": alike[0].splits["val"], "val": alike[0].splits["train"]})
    parts = [entry.only([split]) for entry in alike[:2] for split in entry.splits]
    entries = [*alike, swapped, *parts]
    prints = [entry.fingerprint(tmp_path / entry.root) for entry in entries]
    assert len(set(prints)) == len(entries)


def test_few_shots_never_share_a_digest() -> None:
    (task,) = tasks.find(["classification/imagenet"])
    few = [p for p in task.protocols if "few-shot" in p.name]
    assert len(few) == 8
    assert len({task.digest(p, "data") for p in task.protocols}) == len(task.protocols)


def test_a_million_paths_are_kept_by_their_names_alone(tmp_path: Path) -> None:
    entry, write = MINIATURES["cub"]
    write(tmp_path / entry.root)
    found = read_split(entry, entry.locate(tmp_path), "train").images
    assert not isinstance(found, np.ndarray)
    assert found.names.dtype.kind == "S"
    assert found[1:3][0] == found[1]
    assert list(found[np.array([2, 0])]) == [found[2], found[0]]
    assert pickle.loads(pickle.dumps(found))[1] == found[1]


def test_no_images_no_split() -> None:
    none = dataclasses.replace(transfer.CUB, read=lambda folder, split: Lists(images=[], labels=[], classes=["a"]))
    with pytest.raises(UserError, match="The test split of cub lists 0 images and 0 labels"):
        read_split(none, Path("nowhere"), "test")


def test_k12_is_the_twelve_of_kornblith_with_cub_for_birdsnap() -> None:
    named = {task.name.partition("/")[2]: task.metrics[0].name for task in tasks.find(["k12"])}
    assert named == {
        "food101": "top1",
        "cifar10": "top1",
        "cifar100": "top1",
        "cub": "top1",
        "sun397": "top1",
        "cars": "top1",
        "aircraft": "mean_class_accuracy",
        "voc2007": "mAP",
        "dtd": "top1",
        "pets": "mean_class_accuracy",
        "caltech101": "mean_class_accuracy",
        "flowers": "mean_class_accuracy",
    }
    assert "in place of Birdsnap" in GROUPS["k12"].about
    assert [t.name for t in tasks.find(["cog"])] == [f"classification/cog-{k}" for k in range(1, 6)]
    assert len(tasks.find(["dtd-splits", "k12"])) == 21
    with pytest.raises(UserError, match=r"Unknown task 'k13'\. Did you mean k12"):
        tasks.find(["k13"])


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0].name)
def test_an_entry_is_complete(row: tuple[LabelledImages, object, object]) -> None:
    entry = row[0]
    assert entry.read_as
    assert entry.licence
    assert {"train", entry.reported_on} <= entry.splits.keys()
    assert not entry.validation or entry.validation in entry.splits
    assert entry.facts.counts.keys() <= entry.splits.keys()
    assert entry.facts.known_from
    assert not entry.classes or len(entry.classes) == entry.facts.classes
    assert len(K12) == 12


@pytest.mark.data
def test_the_shared_tiny_imagenet_is_read_as_it_is() -> None:
    (task,) = tasks.find(["classification/tiny-imagenet"])
    folder = task.dataset.locate(real_data(task.dataset.root))
    train, val = splits_of(task.dataset, folder)
    assert (len(train.labels), len(val.labels), len(train.classes)) == (3200, 800, 200)


@pytest.mark.data
@pytest.mark.parametrize(
    ("entry", "train", "test", "labels"),
    [(transfer.CUB, 180, 114, set(range(10))), (transfer.PETS, 300, 298, {0, 1, 5})],
    ids=["cub", "pets"],
)
def test_the_shared_data_is_read_as_it_is(entry: LabelledImages, train: int, test: int, labels: set[int]) -> None:
    folder = entry.locate(real_data(entry.root))
    seen, unseen = splits_of(entry, folder)
    assert (len(seen.labels), len(unseen.labels)) == (train, test)
    assert set(seen.labels.tolist()) == set(unseen.labels.tolist()) == labels
    assert not {str(p) for p in seen.paths} & {str(p) for p in unseen.paths}
    for split in (seen, unseen):
        for index in (0, -1):
            name = split.classes[split.labels[index]]
            path = split.paths[index]
            assert name in (path.parent.name, path.stem.rpartition("_")[0])
            assert read(path).mode == "RGB"
