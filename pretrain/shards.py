"""Large sets as tar files, of which any image is read by its position.

    python -m pretrain.shards FOLDER OUT [--megabytes 1000]
    python -m pretrain.shards OUT --check

writes a folder's images, unchanged, into OUT/000000.tar, ... and their hashes into OUT/manifest.json; the
same command goes on where a killed one stopped. Tar files made otherwise are read too. Images are labelled by
their folder within the tar, or by the `.cls` beside them (WebDataset).
"""

import argparse
import io
import itertools
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.datasets import tar_files
from bench.datasets.tar_files import MANIFEST
from bench.errors import UserError
from bench.files import content_sha256, file_sha256, write_atomic
from pretrain import sources
from pretrain.sources import ImageSource


def write(whole: ImageSource, out: Path, *, limit: int = 1_000_000_000) -> None:
    """Write a source's images into tar files of about `limit` bytes; goes on where a call was stopped.

    Raises:
        UserError: `out` holds other images.
    """
    if not isinstance(whole.storage, sources.Files):
        raise UserError(f"{whole.name} consists of tar files already; name a folder of images.")
    fingerprint = whole.fingerprint
    manifest = tar_files.read(out) or {"source": fingerprint, "images": len(whole), "tars": {}}
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
    manifest = tar_files.read(folder)
    if not manifest:
        raise UserError(f"{folder} has no {MANIFEST}; only what python -m pretrain.shards wrote can be checked.")
    tar_files.check_whole(folder, manifest)
    for name, told in manifest["tars"].items():
        if content_sha256(folder, [folder / name]) != told["sha256"]:
            raise UserError(f"{folder / name} was changed or damaged since it was written; make or fetch it anew.")


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
