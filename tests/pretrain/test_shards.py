"""Tar shards: written, resumed and verified; any image by its position; others' tars; damage."""

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import pytest
from picture_folders import folder, picture

from bench.errors import UserError
from pretrain import shards
from pretrain.data import CropBatches, loader
from pretrain.sources import Files, ImageSource, source


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path) -> ImageSource:
    return source(folder(tmp_path / "images", 30, classes=3))


def write(images: ImageSource, out: Path) -> Path:
    """Three or more tars, as one holds but a few of these images."""
    shards.write(images, out, limit=20_000)
    return out


def test_tars_hold_the_folders_images_and_labels_byte_for_byte(images, tmp_path):
    out = write(images, tmp_path / "out")
    assert len(list(out.glob("*.tar"))) >= 3
    found = source(out)
    assert found.classes == images.classes
    assert found.labels.tolist() == images.labels.tolist()
    for k in (29, 0, 13):
        assert found.storage.read(k) == images.storage.read(k)


def test_batches_of_tars_are_those_of_the_folder(images, tmp_path):
    small = {"batch_size": 12, "img_size": 8, "seed": 0}
    tars = source(write(images, tmp_path / "out"))
    there = loader(CropBatches(tars, **small), iterations=3, num_workers=2)
    for a, b in zip(loader(CropBatches(images, **small), iterations=3), there, strict=True):
        assert a.images.equal(b.images)
        assert a.labels.equal(b.labels)


def test_standard_tools_read_the_tars(images, tmp_path):
    out = write(images, tmp_path / "out")
    with tarfile.open(out / "000000.tar") as tar:
        assert tar.getnames()[0] == "class0/00000000.png"


class Killed(Exception):
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dying(Files):
    def read(self, index: int) -> bytes:
        if index == 20:
            raise Killed
        return super().read(index)


def test_a_stopped_command_goes_on_and_gives_the_same_files(images, tmp_path):
    whole, stopped = write(images, tmp_path / "whole"), tmp_path / "stopped"
    dying = Dying(root=images.storage.root, paths=images.storage.paths)
    with pytest.raises(Killed):
        write(dataclasses.replace(images, storage=dying), stopped)
    with pytest.raises(UserError, match=r"of 30 images.*was stopped"):
        source(stopped)
    first = (stopped / "000000.tar").stat().st_mtime_ns
    write(images, stopped)
    assert (stopped / "000000.tar").stat().st_mtime_ns == first
    assert sorted(p.name for p in stopped.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert all((stopped / p.name).read_bytes() == p.read_bytes() for p in whole.iterdir())


def test_other_images_are_not_added(images, tmp_path):
    out = write(images, tmp_path / "out")
    with pytest.raises(UserError, match="tar files of other images"):
        shards.write(source(folder(tmp_path / "others", 4)), out)
    with pytest.raises(UserError, match="consists of tar files already"):
        shards.write(source(out), tmp_path / "again")


def test_the_fingerprint_is_of_the_contents(images, tmp_path):
    a, b = (source(write(images, tmp_path / name)) for name in ("a", "b"))
    assert a.fingerprint == b.fingerprint
    few = {source(tmp_path / "a", images=2, subset_seed=k).fingerprint for k in (0, 1)}
    assert len({a.fingerprint, *few}) == 3
    (tmp_path / "a/manifest.json").unlink()
    assert len(source(tmp_path / "a").fingerprint) == 64


def test_a_truncated_or_missing_tar_is_named(images, tmp_path):
    out = write(images, tmp_path / "out")
    path = out / "000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"000001.tar has 3,000 bytes"):
        source(out)
    path.unlink()
    with pytest.raises(UserError, match=r"000001.tar is missing"):
        source(out)


def test_check_reads_every_byte(images, tmp_path, capsys):
    out = write(images, tmp_path / "out")
    assert shards.main([str(out), "--check"]) == 0
    path = out / "000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    assert shards.main([str(out), "--check"]) == 2
    assert "000001.tar was changed" in capsys.readouterr().err


def test_the_command_writes(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert shards.main([str(tmp_path / "images"), str(out)]) == 0
    assert json.loads((out / "manifest.json").read_text())["images"] == 30
    assert shards.main([str(tmp_path / "nowhere"), str(out)]) == 2
    assert "no source of images" in capsys.readouterr().err


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def webdataset(path: Path, *, classes: list[int], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for k, label in enumerate(classes):
            file = io.BytesIO()
            picture(k).save(file, "PNG")
            add(tar, f"sample{k:03d}.cls", str(label).encode())
            add(tar, f"sample{k:03d}.png", file.getvalue())
            add(tar, f"sample{k:03d}.json", b"{}")


def test_webdatasets_tars_are_read_with_their_labels(tmp_path):
    webdataset(tmp_path / "train-00.tar", classes=[10, 2])
    webdataset(tmp_path / "train-01.tar", classes=[2, 9])
    found = source(tmp_path)
    assert len(found) == 4
    assert found.labels.tolist() == [2, 0, 0, 1], "in the order of the numbers: 2, 9, 10"
    assert found.storage.read(3) == found.storage.read(1)


@pytest.mark.parametrize("damage", ["truncated", "compressed", "empty"])
def test_damaged_tars_of_others_are_refused_in_one_paragraph(tmp_path, damage):
    path = tmp_path / "train-00.tar"
    webdataset(path, classes=[1, 2], mode="w:gz" if damage == "compressed" else "w")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1800])
    if damage == "empty":
        path.write_bytes(b"")
    with pytest.raises(UserError) as raised:
        source(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tars_without_an_image_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "notes.txt", b"none")
    with pytest.raises(UserError, match="contain no image"):
        source(tmp_path)
