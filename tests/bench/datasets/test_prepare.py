"""Tar files of 256-pixel images: what is in them, that a kill costs nothing, that nothing changes unnoticed."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets import catalogue, prepare
from bench.datasets.prepare import Recipe
from bench.datasets.tar_files import MANIFEST
from bench.errors import UserError
from pretrain import shards, sources

HERE = Path(__file__).parents[3]
CLASSES = ("n01440764", "n01443537", "n01484850")
SMALL = Recipe(per_tar=10)


def write_imagenet(root: Path, a_class: int = 8, size: tuple[int, int] = (400, 300)) -> Path:
    """ImageNet's layout: JPEGs of one colour a class, and one of each odd kind."""
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            folder = root / "imagenet" / split / name
            folder.mkdir(parents=True)
            rng = np.random.default_rng(label)
            for k in range(a_class if split == "train" else 2):
                pixels = rng.integers(0, 40, (*size[::-1], 3)).astype(np.uint8)
                pixels[..., label] += 180
                Image.fromarray(pixels).save(folder / f"{name}_{k}.JPEG", quality=85)
    return root / "imagenet"


def odd_kinds(folder: Path) -> None:
    """A small JPEG, a PNG with transparency under a JPEG's name, and a CMYK JPEG, as ImageNet has them."""
    there = folder / "train" / CLASSES[0]
    Image.new("RGB", (200, 120), (200, 10, 10)).save(there / "n01440764_0.JPEG", quality=77)
    Image.new("RGBA", (300, 600), (200, 0, 0, 9)).save(there / "n01440764_1.JPEG", "PNG")
    Image.new("CMYK", (512, 300), (0, 200, 200, 0)).save(there / "n01440764_2.JPEG", "JPEG")


def run(root: Path, out: Path, recipe: Recipe = SMALL) -> list[str]:
    return list(prepare.prepare(catalogue.find("imagenet"), root, out, recipe))


def members(out: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                yield member.name, file.read()


def test_images_are_resized_and_have_the_same_classes(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path)
    odd_kinds(folder)
    printed = run(tmp_path, tmp_path / "out")
    assert "imagenet train: 24 images in 3 tar files" in printed[0]
    assert "24 of them converted now" in printed[0]
    found = list(members(tmp_path / "out/train"))
    assert [name for name, _ in found] == [
        f"{label:05d}-{name}/{8 * label + k:08d}.jpg" for label, name in enumerate(CLASSES) for k in range(8)
    ]
    sizes = []
    for k, (_, content) in enumerate(found):
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert np.asarray(image).mean((0, 1)).argmax() == k // 8
            sizes.append(image.size)
    assert sizes == [(200, 120), (256, 512), (437, 256), *[(341, 256)] * 21]
    assert found[0][1] == (folder / "train/n01440764/n01440764_0.JPEG").read_bytes()


def test_pretraining_reads_what_was_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    write_imagenet(tmp_path)
    run(tmp_path, tmp_path / "out")
    shards.check(tmp_path / "out/train")
    found = sources.source(tmp_path / "out/train")
    assert len(found) == 24
    assert found.classes == tuple(f"{k:05d}-{name}" for k, name in enumerate(CLASSES))
    assert found.labels is not None
    assert found.labels.tolist() == [k // 8 for k in range(24)]
    assert [name for name, _ in members(tmp_path / "out/train")][5].endswith("00000005.jpg")
    assert found.storage.read(5) == list(members(tmp_path / "out/train"))[5][1]


def test_nothing_is_converted_twice_and_the_images_determine_the_bytes(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    first = run(tmp_path, tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.tar")}
    again = run(tmp_path, tmp_path / "out")
    assert [" 0 of them converted now" in line for line in again] == [True, True]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.tar")} == times
    assert [line.split()[-1] for line in again] == [line.split()[-1] for line in first]
    run(tmp_path, tmp_path / "other")
    assert list(members(tmp_path / "out/train")) == list(members(tmp_path / "other/train"))
    larger = run(tmp_path, tmp_path / "larger", Recipe(per_tar=10, short_side=280))
    assert larger[0].split()[-1] != first[0].split()[-1]


def test_the_recipe_is_in_the_fingerprint_even_where_no_byte_differs(tmp_path: Path) -> None:
    write_imagenet(tmp_path, size=(100, 90))
    one = run(tmp_path, tmp_path / "a", Recipe(per_tar=10, short_side=256))
    other = run(tmp_path, tmp_path / "b", Recipe(per_tar=10, short_side=200))
    assert list(members(tmp_path / "a/train")) == list(members(tmp_path / "b/train"))
    assert one[0].split()[-1] != other[0].split()[-1]


@pytest.mark.long
def test_a_cut_off_tar_is_resumed(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    run(tmp_path, tmp_path / "whole")
    run(tmp_path, tmp_path / "out")
    train = tmp_path / "out/train"
    manifest = json.loads((train / MANIFEST).read_text())
    del manifest["tars"]["000001.tar"]
    (train / MANIFEST).write_text(json.dumps(manifest))
    content = (train / "000001.tar").read_bytes()
    (train / "000001.tar").unlink()
    (train / "000001.partial").write_bytes(content[: len(content) // 2])
    printed = run(tmp_path, tmp_path / "out")[0]
    converted = int(printed.split(" of them converted now")[0].split()[-1])
    assert 3 <= converted <= 7
    assert list(members(train)) == list(members(tmp_path / "whole/train"))
    assert not list(train.glob("*.partial"))
    shards.check(train)


def test_a_tar_that_the_manifest_does_not_know_yet_is_saved(tmp_path: Path) -> None:
    """A kill after the tar got its name, and before it was written down."""
    write_imagenet(tmp_path)
    run(tmp_path, tmp_path / "out")
    train = tmp_path / "out/train"
    content = (train / "000001.tar").read_bytes()
    manifest = (train / MANIFEST).read_text()
    shorter = json.loads(manifest)
    del shorter["tars"]["000001.tar"]
    (train / MANIFEST).write_text(json.dumps(shorter))
    assert " 0 of them converted now" in run(tmp_path, tmp_path / "out")[0]
    assert (train / "000001.tar").read_bytes() == content
    assert json.loads((train / MANIFEST).read_text()) == json.loads(manifest)


def start(root: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.datasets", "prepare", "imagenet"]
    return subprocess.Popen(
        [*command, "--data-root", str(root), "--out", str(out)],
        cwd=HERE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.long
def test_a_killed_process_is_resumed(tmp_path: Path) -> None:
    """SIGKILL while a tar is written; its workers end too, and the next one converts the rest alone."""
    write_imagenet(tmp_path, a_class=70, size=(1000, 800))
    partial = tmp_path / "out/train/000000.partial"
    killed = start(tmp_path, tmp_path / "out")
    deadline = time.monotonic() + 120
    while not (partial.is_file() and partial.stat().st_size > 1_000_000):
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    group_ends(killed.pid)
    assert not (tmp_path / "out/train/000000.tar").exists()

    second = start(tmp_path, tmp_path / "out")
    printed, _ = second.communicate(timeout=120)
    assert second.returncode == 0
    converted = int(printed.split(" of them converted now")[0].split()[-1])
    assert 0 < converted < 210 - 10
    whole = run(tmp_path, tmp_path / "whole", prepare.RECIPE)
    assert printed.splitlines()[0].split()[-1] == whole[0].split()[-1]


def group_ends(group: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers outlive the process that was killed")


def test_a_damaged_image_is_named_and_once_restored_the_rest_follows(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path)
    image = folder / "train/n01443537/n01443537_7.JPEG"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 3])
    with pytest.raises(UserError, match=r"n01443537_7\.JPEG cannot be read"):
        run(tmp_path, tmp_path / "out")
    assert (tmp_path / "out/train/000000.tar").is_file()
    image.write_bytes(content)
    printed = run(tmp_path, tmp_path / "out")[0]
    assert int(printed.split(" of them converted now")[0].split()[-1]) <= 14


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path)
    run(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="recipe differ"):
        run(tmp_path, tmp_path / "out", Recipe(per_tar=10, quality=80))
    (tmp_path / "out/train/000002.tar").write_bytes(b"short")
    with pytest.raises(UserError, match=r"000002\.tar has 5 bytes, and manifest\.json"):
        run(tmp_path, tmp_path / "out")
    extra = folder / "train/n01440764/n01440764_0.JPEG"
    extra.write_bytes(extra.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"000000\.tar was made from have changed"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"segmentation/voc cannot be prepared|voc is not complete"):
        list(prepare.prepare(catalogue.find("segmentation/voc"), tmp_path, tmp_path / "out"))
    with pytest.raises(UserError, match=r"at a time\. Name detection/coco or pose/coco"):
        list(prepare.prepare(catalogue.find("coco"), tmp_path, tmp_path / "out"))


def test_splits_that_are_there_are_prepared(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path)
    (folder / "val").rename(folder / "elsewhere")
    printed = run(tmp_path, tmp_path / "out")
    assert len(printed) == 2
    assert printed[1] == "imagenet val: missing, and left out"
