import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.datasets.dataset import Dataset
from bench.errors import UserError
from bench.files import content_sha256

PETS = Dataset(
    name="pets",
    source="its authors",
    licence="CC BY-SA 4.0",
    root="pets-37",
    splits={"train": ("images", "lists/train.txt"), "val": ("lists/val.txt",)},
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("images/a.jpg", "lists/train.txt", "lists/val.txt", "notes.txt"):
        file = tmp_path / "data/pets-37" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "data"


def test_a_complete_data_set_is_found(root: Path) -> None:
    assert PETS.locate(root) == root / "pets-37"


def test_what_is_missing_is_named_with_the_nearest_that_is_there(root: Path) -> None:
    (root / "pets-37/lists/val.txt").rename(root / "pets-37/lists/valid.txt")
    with pytest.raises(UserError) as caught:
        PETS.locate(root)
    assert f"expected {root / 'pets-37/lists/val.txt'}" in str(caught.value)
    assert f"nearest there: {root / 'pets-37/lists/valid.txt'}" in str(caught.value)
    with pytest.raises(UserError, match=r"--data-root DIR or\s+BENCH_DATA"):
        PETS.locate(None)


def test_the_fingerprint_follows_the_contents_alone(root: Path) -> None:
    before = PETS.fingerprint(root / "pets-37")
    assert content_sha256(root, [root / "pets-37/notes.txt"]) != before
    (root / "pets-37/notes.txt").write_text("not part of a split")
    assert PETS.fingerprint(root / "pets-37") == before
    moved = root.rename(root.with_name("elsewhere"))
    os.utime(moved / "pets-37/images/a.jpg", (0, 0))
    assert PETS.fingerprint(moved / "pets-37") == before
    (moved / "pets-37/images/a.jpg").write_text("images/b.jpg")  # same size
    assert PETS.fingerprint(moved / "pets-37") != before


def test_a_file_has_the_hash_that_sha256sum_gives(root: Path) -> None:
    file = root / "pets-37/notes.txt"
    assert content_sha256(file.parent, [file]) == os.popen(f"sha256sum {file}").read().split()[0]
    listing = "".join(
        os.popen(f"cd {root} && sha256sum {name}").read() for name in ("pets-37/lists/train.txt", "pets-37/notes.txt")
    )
    (root / "listing").write_text(listing)
    files = [root / "pets-37/notes.txt", root / "pets-37/lists/train.txt"]
    assert content_sha256(root, files) == os.popen(f"sha256sum {root / 'listing'}").read().split()[0]


def test_only_the_splits_that_are_read_must_be_there(root: Path) -> None:
    (root / "pets-37/lists/val.txt").unlink()
    whole = PETS.only(["train"])
    assert whole.locate(root) == root / "pets-37"
    with pytest.raises(UserError, match=r"lists/val\.txt"):
        PETS.locate(root)
    with pytest.raises(UserError, match=r"Unknown split of pets 'vall'\. Did you mean val"):
        PETS.only(["vall"])


def test_an_optional_file_counts_where_it_exists(root: Path) -> None:
    pets = replace(PETS, optional=("scale.json",))
    before = pets.fingerprint(root / "pets-37")
    assert before == PETS.fingerprint(root / "pets-37")
    (root / "pets-37/scale.json").write_text("{}")
    assert pets.fingerprint(root / "pets-37") != before


@pytest.mark.parametrize(
    ("there", "expected"),
    [("pets-37/pets-37", "pets-37/lists/train.txt"), (".", "pets-37/lists/train.txt")],
    ids=["one folder too deep", "one folder too high"],
)
def test_a_folder_too_deep_or_too_high_is_named(root: Path, there: str, expected: str) -> None:
    (root / "pets-37").rename(root / "moved")
    (root / there).parent.mkdir(exist_ok=True)
    for part in list((root / "moved").iterdir()):
        (root / there).mkdir(exist_ok=True)
        part.rename(root / there / part.name)
    (root / "moved").rmdir()
    lists = replace(PETS, splits={"train": ("lists/train.txt",)})
    with pytest.raises(UserError) as caught:
        lists.locate(root)
    found = (root / there / "lists/train.txt").resolve()
    assert f"expected {root / expected}; nearest there: {found}" in str(caught.value)


def test_how_files_are_read_is_in_the_fingerprint(root: Path) -> None:
    folder = root / "pets-37"
    swapped = {"train": PETS.splits["val"], "val": PETS.splits["train"]}
    first, second = (replace(PETS, read_as=f"split {k} of 10") for k in (1, 2))
    prints = [d.fingerprint(folder) for d in (PETS, first, second, replace(first, splits=swapped))]
    assert len(set(prints)) == 4
    assert replace(PETS, splits=swapped).fingerprint(folder) == PETS.fingerprint(folder)


def test_many_files_are_known_by_path_and_size_and_lists_by_their_contents(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "pets-37"
    (folder / "images/deep").mkdir()
    (folder / "images/deep/b.jpg").write_text("b")
    by_contents = PETS.fingerprint(folder)
    monkeypatch.setattr("bench.datasets.dataset.MANY", 1)
    before = PETS.fingerprint(folder)
    assert re.fullmatch("[0-9a-f]{64}-by-size", before)
    assert before[:64] != by_contents
    assert replace(PETS, read_as="anyhow").fingerprint(folder).endswith("-by-size")
    (folder / "images/deep/b.jpg").write_text("c")  # the same size
    assert PETS.fingerprint(folder) == before
    (folder / "lists/val.txt").write_text("lists/vax.txt")  # the same size
    assert (changed := PETS.fingerprint(folder)) != before
    (folder / "images/deep/b.jpg").write_text("cc")
    assert PETS.fingerprint(folder) != changed
    moved = root.rename(root.with_name("elsewhere"))
    (moved / "pets-37/images/deep/b.jpg").write_text("c")
    (moved / "pets-37/lists/val.txt").write_text("lists/val.txt")
    assert PETS.fingerprint(moved / "pets-37") == before
