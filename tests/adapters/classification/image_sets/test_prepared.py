"""Tasks on tar files that `prepare` made: the same images, another fingerprint, and nothing half-done."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from labelled_miniatures import MINIATURES

from adapters.classification.data import splits_of
from adapters.classification.image_sets.labelled import LabelledImages
from bench.datasets import catalogue, prepare
from bench.datasets.__main__ import main
from bench.datasets.images import read
from bench.datasets.prepare import Recipe
from bench.datasets.tar_files import Packed
from bench.errors import UserError
from bench.records import Result
from bench.runs.execute import execute
from bench.runs.plan import Request, runs

SMALL = Recipe(per_tar=5)
OTHER_LABELS = ("voc2007", "cifar10", "cifar100")  # several classes an image, or pixels
NAMES = [name for name in MINIATURES if name not in OTHER_LABELS]
pytestmark = pytest.mark.usefixtures("unpublished")


def prepared(tmp_path: Path, name: str, recipe: Recipe = SMALL, where: str = "fast") -> LabelledImages:
    """The entry, whose miniature is below `slow`, and its tar files below `where`."""
    entry, write = MINIATURES[name]
    if not (tmp_path / "slow" / entry.root).exists():
        write(tmp_path / "slow" / entry.root)
    out = tmp_path / where / name
    list(prepare.prepare(catalogue.find(name), tmp_path / "slow", out, recipe))
    return entry


def edited(folder: Path, **changes: object) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_holds_the_same_images_in_the_same_order(tmp_path: Path, name: str) -> None:
    entry = prepared(tmp_path, name)
    slow, fast = (entry.locate(tmp_path / root) for root in ("slow", "fast"))
    assert fast == tmp_path / "fast" / name
    for original, copy in zip(splits_of(entry, slow), splits_of(entry, fast), strict=True):
        assert list(copy.classes) == list(original.classes)
        assert np.array_equal(copy.labels, original.labels)
        assert isinstance(copy.paths, Packed)
        assert (copy.held_out is None) == (original.held_out is None)
        if copy.held_out is not None:
            assert np.array_equal(copy.held_out, original.held_out)  # type: ignore[arg-type]
        for one, other in zip(original.paths, copy.paths, strict=True):
            assert np.array_equal(read(one), read(other))


def test_the_limit_keeps_the_same_images(tmp_path: Path) -> None:
    entry = prepared(tmp_path, "dtd")
    few = [splits_of(entry, entry.locate(tmp_path / r), limit=7)[0] for r in ("slow", "fast")]
    pixels = [[np.asarray(read(path)) for path in split.paths] for split in few]
    assert np.array_equal(*pixels)
    assert np.array_equal(few[0].labels, few[1].labels)


SHORT = """
import dataclasses
from adapters.classification import TASKS as KNOWN

(dtd,) = (task for task in KNOWN if task.name == "classification/dtd")
small = {"batch_size": 4, "img_size": 32, "crop_pct": 1.0}
short = [dataclasses.replace(protocol, **small) for protocol in dtd.protocols]
TASKS = (dataclasses.replace(dtd, name="classification/short", protocols=tuple(short)),)
"""


def record(tmp_path: Path, root: str, protocol: str) -> Result:
    entries = tmp_path / "short.py"
    entries.write_text(SHORT)
    request = Request(
        backbones=("test_vit",),
        tasks=("classification/short",),
        include=(entries,),
        protocol=protocol,
        smoke=True,
        data_root=tmp_path / root,
        results=tmp_path / "results",
        work_dir=tmp_path / "runs",
    )
    (run,) = runs(request)
    found = execute(run)
    assert found is not None
    return found


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_a_run_gives_the_numbers_of_the_original_under_another_digest(tmp_path: Path, protocol: str) -> None:
    """The miniatures' JPEGs are smaller than 256 pixels and so kept byte by byte: nothing may differ."""
    prepared(tmp_path, "dtd")
    slow, fast = (record(tmp_path, root, protocol) for root in ("slow", "fast"))
    assert fast.status == "done", fast.error
    assert fast.metrics == slow.metrics
    assert fast.selection == slow.selection
    assert fast.digest != slow.digest
    assert fast.data["fingerprint"].endswith("-prepared")
    assert not slow.data["fingerprint"].endswith("-prepared")


def test_the_recipe_and_the_splits_are_in_the_fingerprint(tmp_path: Path) -> None:
    entry = prepared(tmp_path, "cub")
    prepared(tmp_path, "cub", dataclasses.replace(SMALL, quality=80), where="other")
    prepared(tmp_path, "cub", where="again")
    found = {root: entry.planned_fingerprint(tmp_path / root) for root in ("slow", "fast", "other", "again")}
    assert found["again"] == found["fast"]
    assert len(set(found.values())) == 3
    parts = {entry.only([split]).planned_fingerprint(tmp_path / "fast") for split in ("train", "test")}
    assert len({*parts, found["fast"]}) == 3


def test_the_original_is_read_where_both_are_there(tmp_path: Path) -> None:
    entry = prepared(tmp_path, "cub", where="slow")
    assert entry.locate(tmp_path / "slow") == tmp_path / "slow/CUB_200_2011"
    (tmp_path / "slow/CUB_200_2011/images.txt").unlink()
    assert entry.locate(tmp_path / "slow") == tmp_path / "slow/cub"


def test_half_of_it_is_refused(tmp_path: Path) -> None:
    entry = prepared(tmp_path, "imagenet")
    train = tmp_path / "fast/imagenet/train"
    told = json.loads((train / "manifest.json").read_text())["tars"]
    last = (train / "000002.tar").read_bytes()
    edited(train, tars={name: told[name] for name in sorted(told)[:-1]})
    with pytest.raises(UserError, match=r"train holds 10 of 12 images: .*datasets prepare was stopped"):
        entry.locate(tmp_path / "fast")
    edited(train, tars=told)
    (train / "000002.tar").write_bytes(last[:700])
    with pytest.raises(UserError, match=r"000002\.tar has 700 bytes, and manifest\.json"):
        entry.locate(tmp_path / "fast")
    (train / "000002.tar").unlink()
    with pytest.raises(UserError, match=r"000002\.tar is missing"):
        entry.locate(tmp_path / "fast")
    (train / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        entry.locate(tmp_path / "fast")


@pytest.mark.parametrize("name", ["imagenet", "cub"])
def test_a_split_that_was_not_prepared_is_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = prepared(tmp_path, name)
    folder = tmp_path / "fast" / name
    (folder / "train/manifest.json").rename(folder / "train/manifest")
    (folder / "train").rename(folder / "elsewhere")
    with pytest.raises(UserError, match=r"prepared in .* without its split train: expected .*train"):
        entry.locate(tmp_path / "fast")
    assert main(["check", name, "--data-root", str(tmp_path / "fast")]) == 0
    said = capsys.readouterr().out
    assert f"train: missing: {name} was prepared in {folder} without its split train" in said
    assert "9 of " in said


def test_what_is_no_copy_of_it_is_refused(tmp_path: Path) -> None:
    entry = prepared(tmp_path, "cub")
    edited(tmp_path / "fast/cub/test", dataset="pets test")
    with pytest.raises(UserError, match="holds pets test, where cub test is expected"):
        entry.locate(tmp_path / "fast")
    (tmp_path / "fast/cub/test/manifest.json").write_text('{"images": 9, "tars": {}}')
    with pytest.raises(UserError, match="prepare did not write, where cub test is expected"):
        entry.locate(tmp_path / "fast")


def test_an_image_damaged_within_its_tar_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path, "cub")
    tar = tmp_path / "fast/cub/test/000001.tar"
    content = bytearray(tar.read_bytes())
    content[512:700] = bytes(188)
    tar.write_bytes(content)
    assert main(["check", "cub", "--data-root", str(tmp_path / "fast"), "--full"]) == 1
    said = capsys.readouterr().out
    assert f"The image in {tar} at byte 512" in said
    assert said.count("WRONG") == 2  # the image, and its tar


def test_bytes_changed_within_an_image_are_found_by_a_full_check_and_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the image still opens, no count, size or name tells."""
    prepared(tmp_path, "pets")
    folder = tmp_path / "fast/pets/train"
    tar = sorted(folder.glob("*.tar"))[-1]
    whole = tar.read_bytes()
    end = whole.index(b"\xff\xd9")  # of the first image's pixels
    tar.write_bytes(whole[: end - 4] + bytes(4) + whole[end:])
    check = ["check", "pets", "--data-root", str(tmp_path / "fast")]
    assert main(check) == 0
    capsys.readouterr()
    assert main([*check, "--full"]) == 1
    said = capsys.readouterr().out
    assert said.count("WRONG") == 1
    assert f"{tar} is not as it was written. Delete it and its entry in manifest.json" in said
    tar.unlink()
    tars = json.loads((folder / "manifest.json").read_text())["tars"]
    edited(folder, tars={name: told for name, told in tars.items() if name != tar.name})
    prepared(tmp_path, "pets")
    assert tar.read_bytes() == whole
    assert main([*check, "--full"]) == 0
    shutil.rmtree(tmp_path / "fast/pets/test")
    capsys.readouterr()
    assert main([*check, "--full"]) == 0
    said = capsys.readouterr().out
    assert "test: missing" in said
    assert "train's tar files: as they were written" in said


def test_nothing_is_prepared_twice_nor_into_the_original(tmp_path: Path) -> None:
    prepared(tmp_path, "imagenet")
    entries = catalogue.find("imagenet")
    with pytest.raises(UserError, match="holds a prepared copy of imagenet, which is not converted"):
        list(prepare.prepare(entries, tmp_path / "fast", tmp_path / "twice", SMALL))
    with pytest.raises(UserError, match=r"lies within .*train, which is part of imagenet itself"):
        list(prepare.prepare(entries, tmp_path / "slow", tmp_path / "slow/imagenet", SMALL))
    assert not (tmp_path / "twice").exists()


def test_an_image_in_two_splits_is_found_before_its_name_is_lost(tmp_path: Path) -> None:
    entry, write = MINIATURES["dtd"]
    write(tmp_path / "slow" / entry.root)
    labels = tmp_path / "slow" / entry.root / "labels"
    seen = (labels / "train1.txt").read_text()
    (labels / "test1.txt").write_text((labels / "test1.txt").read_text() + seen)
    with pytest.raises(UserError, match=r"9 image\(s\) are listed for dtd train and for dtd test"):
        prepared(tmp_path, "dtd")
