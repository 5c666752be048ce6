"""Large sets as tar files, of which any image is read by its position.

    python -m pretrain.shards FOLDER OUT [--megabytes 1000]
    python -m pretrain.shards OUT --check

writes a folder's images, unchanged, into OUT/000000.tar, ... and their hashes into OUT/manifest.json; the
same command goes on where a killed one stopped. Tar files made otherwise are read too. Images are labelled by
their folder within the tar, or by the `.cls` beside them (WebDataset).
"""

import argparse
import dataclasses
import functools
import io
import itertools
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.provenance import cache_dir, content_sha256, file_sha256
from bench.results import write_atomic
from pretrain import sources
from pretrain.sources import ImageSource, Indices, combined

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shards:
    """Images within tar files.

    Args:
        members: int64 [n, 3]: which tar, and where in it the image begins and how long it is, in bytes.
    """

    root: Path
    tars: Sequence[str]
    members: NDArray[np.int64]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.members)

    def read(self, index: int) -> bytes:
        """An image's file; raises OSError where the tar ends before it."""
        tar, begin, size = self.members[index].tolist()
        content = os.pread(_opened(str(self.root / self.tars[tar])).fileno(), size, begin)
        if len(content) < size:
            raise OSError(f"{self.tars[tar]} ends within it")
        return content

    def where(self, index: int) -> str:
        """The tar and the byte where the image begins."""
        return f"{self.root / self.tars[self.members[index, 0]]} at byte {self.members[index, 1]}"

    def fingerprint(self, chosen: Indices) -> str:
        """Of the tars' hashes: those of the manifest, where there is one."""
        own = self._hashes()
        return own if len(chosen) == len(self) else combined(own, chosen.tolist())

    def _hashes(self) -> str:
        manifest = _manifest(self.root)
        if manifest:
            return combined([manifest["tars"][name]["sha256"] for name in self.tars])
        return content_sha256(self.root, [self.root / name for name in self.tars])


@functools.lru_cache(maxsize=256)  # as many as a process may well have open
def _opened(path: str) -> BinaryIO:
    return Path(path).open("rb", buffering=0)


def source(folder: Path) -> ImageSource:
    """The images of a folder's tar files; where each lies is looked up once and remembered.

    Raises:
        UserError: a tar is damaged, compressed or missing, or none holds an image.
    """
    tars = sorted(path.name for path in folder.glob("*.tar"))
    _check_sizes(folder)
    found = _members(folder, tars)
    if not len(found["members"]):
        raise UserError(
            f"The tar files of {folder} hold no image: expected are members that end in "
            f"{', '.join(sorted(sources.SUFFIXES))}. Give another folder with --data."
        )
    storage = Shards(root=folder, tars=tars, members=found["members"])
    return sources.labelled(folder.resolve().name, storage, found["paths"].tolist())


def _members(folder: Path, tars: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Every image's place and its path within its tar."""
    stats = [(name, s.st_size, s.st_mtime_ns) for name in tars for s in [(folder / name).stat()]]
    memory = cache_dir() / "shards" / f"{combined(str(folder.resolve()), stats)}.npz"
    if not memory.is_file():
        rows = [
            (k, begin, size, path)
            for k, name in enumerate(tars)
            for path, begin, size in images_of(folder / name)
        ]
        places = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
        _save(memory, places, np.array([row[3] for row in rows], str))
    with np.load(memory) as content:
        return dict(content)


def _save(path: Path, members: NDArray[np.int64], paths: NDArray[np.str_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, members=members, paths=paths)
    partial.rename(path)


def images_of(path: Path) -> list[tuple[str, int, int]]:
    """(class/name, first byte, length) of every image of a tar; raises UserError for a damaged one."""
    images, labels = [], {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.endswith(".cls"):
                    labels[_key(member.name)] = _text(tar, member)
                elif member.isfile() and sources.is_image(member.name):
                    images.append((member.name.removeprefix("./"), member.offset_data, member.size))
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The tar file {path} ({path.stat().st_size:,} bytes) cannot be read: {error}. It is truncated, damaged or "
            f"compressed (images are so already); make or fetch it anew."
        ) from None
    return [
        (f"{labels[_key(name)]}/{name}" if _key(name) in labels else name, begin, size)
        for name, begin, size in images
    ]


def _key(name: str) -> str:
    """What WebDataset's members of one sample share: the path up to the base name's first dot."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0]))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None
    # Classes are sorted as text: numbers of equal length keep their order.
    return file.read().decode().strip().zfill(8)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Make the tar files anew.") from None


def _check_sizes(folder: Path) -> None:
    """Compare the tars with the manifest, where there is one."""
    manifest = _manifest(folder)
    if not manifest:
        return
    for name, told in manifest["tars"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != told["bytes"]:
            raise UserError(
                f"{path} {'is missing' if size is None else f'has {size:,} bytes'}, and {MANIFEST} beside it says "
                f"{told['bytes']:,}. Fetch it anew, or delete it and make it anew with python -m pretrain.shards."
            )
    there = sum(told["images"] for told in manifest["tars"].values())
    if there != manifest["images"]:
        raise UserError(
            f"{folder} holds {there:,} of {manifest['images']:,} images: python -m pretrain.shards was stopped. Run "
            f"the same command again; it goes on where it was."
        )


def write(whole: ImageSource, out: Path, *, limit: int = 1_000_000_000) -> None:
    """Write a source's images into tar files of about `limit` bytes; goes on where a call was stopped.

    Raises:
        UserError: `out` holds other images.
    """
    if not isinstance(whole.storage, sources.Files):
        raise UserError(f"{whole.name} consists of tar files already; name a folder of images.")
    fingerprint = whole.fingerprint
    manifest = _manifest(out) or {"source": fingerprint, "images": len(whole), "tars": {}}
    if manifest["source"] != fingerprint or (not manifest["tars"] and any(out.glob("*.tar"))):
        raise UserError(
            f"{out} holds tar files of other images than {whole.name}'s. Name another folder, or delete that one."
        )
    out.mkdir(parents=True, exist_ok=True)
    done = sum(tar["images"] for tar in manifest["tars"].values())
    for number in itertools.count(len(manifest["tars"])):
        if done == len(whole):
            return
        path = out / f"{number:06d}.tar"
        images = _write_tar(path, whole, done, limit)
        done += images
        about = {"bytes": path.stat().st_size, "images": images, "sha256": file_sha256(path)}
        manifest["tars"][path.name] = about
        write_atomic(out / MANIFEST, json.dumps(manifest, indent=1))


def _write_tar(path: Path, whole: ImageSource, start: int, limit: int) -> int:
    """Write images from `start` on until the tar has `limit` bytes; return how many."""
    partial, written = path.with_suffix(".partial"), 0
    with partial.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in _images(whole, start):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                written += 1
                if tar.offset >= limit:
                    break
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    return written


def _images(whole: ImageSource, start: int) -> Iterator[tuple[str, bytes]]:
    for place in range(start, len(whole)):
        index = int(whole.chosen[place])
        suffix = Path(whole.storage.where(index)).suffix
        folder = "" if whole.labels is None else f"{whole.classes[whole.labels[index]]}/"
        yield f"{folder}{place:08d}{suffix}", whole.storage.read(index)


def check(folder: Path) -> None:
    """Compare every byte with the manifest; raises UserError for the first tar that differs."""
    manifest = _manifest(folder)
    if not manifest:
        raise UserError(
            f"{folder} has no {MANIFEST}; only what python -m pretrain.shards wrote can be checked."
        )
    _check_sizes(folder)
    for name, told in manifest["tars"].items():
        if content_sha256(folder, [folder / name]) != told["sha256"]:
            raise UserError(
                f"{folder / name} was changed or damaged since it was written; make or fetch it anew."
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check tar files; 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.shards", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(arguments)
    if given.check == (given.out is not None) or given.megabytes < 1:
        parser.error("give OUT, or --check; and at least one megabyte")
    try:
        check(given.folder) if given.check else write(
            sources.source(given.folder), given.out, limit=given.megabytes * 1_000_000
        )
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
