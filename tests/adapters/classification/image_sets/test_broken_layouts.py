"""What is wrong with a folder or a list is said in one paragraph; line ends and order are no matter."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from labelled_miniatures import MINIATURES

from adapters.classification.data import splits_of
from adapters.classification.image_sets.checked import read_split
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("unpublished")


def rewritten(change: Callable[[str], str], *names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            path = folder / name
            path.write_bytes(change(path.read_text()).encode())

    return write


def windows(text: str) -> str:
    return text.replace("\n", "\r\n")


def unsorted(text: str) -> str:
    return "\n".join(reversed(text.splitlines())) + "\n"


LISTS = {
    "cub": ("images.txt", "image_class_labels.txt", "train_test_split.txt"),
    "pets": ("annotations/trainval.txt", "annotations/test.txt"),
    "sun397": ("Training_01.txt", "Testing_01.txt"),
    "aircraft": ("data/images_variant_train.txt", "data/images_variant_test.txt"),
    "dtd": ("labels/train1.txt", "labels/val1.txt"),
    "voc2007": ("ImageSets/Main/bird_train.txt", "ImageSets/Main/cat_test.txt"),
    "places365": ("places365_train_standard.txt", "places365_val.txt"),
}


@pytest.mark.parametrize("change", [windows, unsorted])
@pytest.mark.parametrize("name", LISTS)
def test_line_ends_and_order_of_lists_change_nothing(tmp_path: Path, name: str, change: Callable[[str], str]) -> None:
    entry, write = MINIATURES[name]
    write(tmp_path / entry.root)
    folder = entry.locate(tmp_path)
    before = [read_split(entry, folder, split) for split in entry.splits]
    rewritten(change, *LISTS[name])(folder)
    after = [read_split(entry, folder, split) for split in entry.splits]
    for one, two in zip(before, after, strict=True):
        assert list(one.images) == list(two.images)
        assert np.array_equal(one.labels, two.labels)
        assert one.classes == two.classes


def appended(name: str, text: str) -> Callable[[Path], None]:
    return rewritten(lambda before: before + text, name)


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    return rewritten(lambda before: before.replace(old, new, 1), name)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def category(folder: Path) -> None:
    path = folder / "train2018.json"
    found = json.loads(path.read_text())
    found["annotations"][0]["category_id"] = 8142
    path.write_text(json.dumps(found))


def concept(folder: Path) -> None:
    path = folder / "cog_concepts_split_file.pkl"
    found = pickle.loads(path.read_bytes())
    del found["n02"]
    path.write_bytes(pickle.dumps(found))


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("I was run",)


def evil(folder: Path) -> None:
    (folder / "cog_levels_mapping_file.pkl").write_bytes(pickle.dumps(Evil()))


def class_folder(folder: Path) -> None:
    (folder / "train/n09999999").mkdir()
    shutil.copy(next((folder / "train").rglob("*.JPEG")), folder / "train/n09999999/a.JPEG")


def empty_class(folder: Path) -> None:
    for path in (folder / "val/n01443537").iterdir():
        path.unlink()


BROKEN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a class without an image": (
        "cub",
        appended("classes.txt", "4 004.Dog_bird\n"),
        r"classes\.txt lists 1 class\(es\) without an image: 4 004\.Dog_bird",
    ),
    "a label too large": (
        "cub",
        edited("image_class_labels.txt", "2 1\n", "2 201\n"),
        r"classes\.txt has no entry for 201, which another list",
    ),
    "an image without a label": (
        "cub",
        edited("image_class_labels.txt", "2 1\n", ""),
        r"image_class_labels\.txt has no entry for 2, which another list",
    ),
    "an image listed twice": ("cub", appended("images.txt", "3 001.Ant_Bird/x.jpg\n"), r"images\.txt lists 3 twice"),
    "half a line": (
        "cub",
        appended("train_test_split.txt", "22\n"),
        r"Line 22 of .*train_test_split\.txt, '22', has 1 column\(s\) where 2 are",
    ),
    "an image that is not there": (
        "cub",
        without("images/002.Bee_eater/Bee_eater_train_1.jpg"),
        r"name the image .*Bee_eater_train_1\.jpg, which is not there; nearest there: .*Bee_eater_train_\d\.jpg",
    ),
    "a pet's label too large": (
        "pets",
        edited("annotations/trainval.txt", "Bengal_00 6", "Bengal_00 38"),
        r"gives images/Bengal_00\.jpg the label 38, and there are 37 classes \(labels 1 to 37\)",
    ),
    "a pet's label of another breed": (
        "pets",
        edited("annotations/trainval.txt", "Bengal_00 6", "Bengal_00 7"),
        r"gives Bengal_00 the label 7, which is Birman",
    ),
    "a scene of no class": (
        "sun397",
        appended("Training_01.txt", "/b/bar/sun_1.jpg\n"),
        r"ClassName\.txt has no entry for /b/bar",
    ),
    "a class too many (lists)": (
        "sun397",
        appended("ClassName.txt", "".join(f"/x/{k}\n" for k in range(395))),
        r"sun397 has 397 classes, and 398 are listed here; the last are x?/?392, ",
    ),
    "a variant of no class": (
        "aircraft",
        appended("data/images_variant_train.txt", "9999999 Concorde\n"),
        r"The train split of aircraft cannot be read from .*images_variant_train\.txt, .*variants\.txt "
        r"\(KeyError: 'Concorde'\)",
    ),
    "a category too large": ("inaturalist2018", category, r"train2018\.json has no entry for 8142"),
    "JSON cut short": (
        "inaturalist2018",
        edited("train2018.json", "]}", ""),
        r"cannot be read from .*train2018\.json \(JSONDecodeError: ",
    ),
    "a concept without images": ("cog-2", concept, r"split_file\.pkl has no entry for n02"),
    "a pickle that runs something": (
        "cog-2",
        evil,
        r"cog_levels_mapping_file\.pkl, .* \(UnpicklingError: it asks for builtins\.print",
    ),
    "a class too many (folders)": (
        "imagenet",
        class_folder,
        r"classes of imagenet/train \(4\) and imagenet/val \(3\) differ; only in train: n09999999",
    ),
    "a class folder without an image": ("imagenet", empty_class, r"class folder .*val/n01443537 holds no image"),
    "an image to train on and to test on": (
        "aircraft",
        appended("data/images_variant_test.txt", "0300001 707-320\n"),
        r"aircraft lists 1 image\(s\) both to train on and for test: data/images/0300001\.jpg",
    ),
    "a list of another edition": (
        "voc2007",
        edited("ImageSets/Main/dog_val.txt", "100003", "100009"),
        r"dog_val\.txt has no entry for 100003",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_one_paragraph(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, breaks, said = BROKEN[case]
    entry, write = MINIATURES[name]
    write(tmp_path / entry.root)
    splits_of(entry, entry.locate(tmp_path))
    breaks(tmp_path / entry.root)
    with pytest.raises(UserError, match=said) as caught:
        splits_of(entry, entry.locate(tmp_path))
    assert "\n" not in str(caught.value)
    assert "I was run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", MINIATURES)
def test_a_missing_list_and_a_layout_one_folder_too_deep_are_named(tmp_path: Path, name: str) -> None:
    entry, write = MINIATURES[name]
    write(tmp_path / entry.root)
    first = entry.paths[0]
    (tmp_path / entry.root / first).rename(tmp_path / entry.root / f"{first}.bak")
    with pytest.raises(UserError, match=re.escape(f"expected {tmp_path / entry.root / first}; nea")):
        entry.locate(tmp_path)
    (tmp_path / entry.root / f"{first}.bak").rename(tmp_path / entry.root / first)
    (tmp_path / entry.root).rename(tmp_path / "inner")
    (tmp_path / entry.root).mkdir()
    (tmp_path / "inner").rename(tmp_path / entry.root / "inner")
    with pytest.raises(UserError) as caught:
        entry.locate(tmp_path)
    assert f"nearest there: {tmp_path / entry.root}/inner/" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("cifar10", "flowers", "places365"):
        entry, write = MINIATURES[name]
        write(tmp_path / entry.root)
        with pytest.raises(UserError, match=rf"split of {name} cannot be read from .*RuntimeError: .*corrupted"):
            read_split(entry, entry.locate(tmp_path), "train")
