"""Write a large set of images as tar files, from which pretraining reads any image by its position.

    python -m pretrain.shards FOLDER OUT [--megabytes 1000]
    python -m pretrain.shards OUT --check

writes a folder's images, unchanged, into OUT/000000.tar, ... and their hashes into OUT/manifest.json; the
same command resumes where a killed one stopped. Tar files made by other tools are read too. Images are labelled by
their folder within the tar, or by the `.cls` file next to them (WebDataset).
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.datasets import tar_files
from bench.datasets.tar_files import MANIFEST
from bench.errors import UserError
from pretrain import sources
from pretrain.sources import ImageSource


def write(whole: ImageSource, out: Path, *, limit: int = 1_000_000_000) -> None:
    """Write a source's images into tar files of about `limit` bytes; resumes where a call was stopped.

    Raises UserError if `out` holds other images.
    """
    if not isinstance(whole.storage, sources.Files):
        raise UserError(f"{whole.name} consists of tar files already; name a folder of images.")
    fingerprint = whole.fingerprint
    manifest = tar_files.begin(out, {"source": fingerprint, "images": len(whole)})
    if manifest["source"] != fingerprint:
        raise UserError(
            f"{out} holds tar files of other images than {whole.name}'s. Name another folder, or delete that one."
        )
    names = [_name(whole, place) for place in range(len(whole))]
    done = sum(tar["images"] for tar in manifest["tars"].values())
    while done < len(whole):
        path = out / f"{len(manifest['tars']):06d}.tar"
        tar_files.add_tar(path, manifest, names[done:], functools.partial(_contents, whole, done), limit=limit)
        done += manifest["tars"][path.name]["images"]


def _name(whole: ImageSource, place: int) -> str:
    """Return an image's name in its tar: class/number.suffix."""
    index = int(whole.chosen[place])
    suffix = Path(whole.storage.where(index)).suffix
    folder = "" if whole.labels is None else f"{whole.classes[whole.labels[index]]}/"
    return f"{folder}{place:08d}{suffix}"


def _contents(whole: ImageSource, start: int, first: int) -> Iterator[bytes]:
    return (whole.storage.read(int(index)) for index in whole.chosen[start + first :])


def check(folder: Path) -> None:
    """Compare every byte with the manifest; raises UserError for the first tar that differs."""
    manifest = tar_files.read(folder)
    if not manifest:
        raise UserError(f"{folder} has no {MANIFEST}; only what python -m pretrain.shards wrote can be checked.")
    tar_files.check_whole(folder, manifest)
    if damaged := tar_files.changed(folder, manifest):
        raise UserError(f"{damaged[0]} was changed or damaged since it was written. Write or download it again.")


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
        if given.check:
            check(given.folder)
        else:
            write(sources.source(given.folder), given.out, limit=given.megabytes * 1_000_000)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
