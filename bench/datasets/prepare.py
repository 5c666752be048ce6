"""A large set of images, once and for all, as tar files of images of 256 pixels.

    python -m bench.datasets prepare imagenet --data-root DIR --out OUT
    python -m pretrain.run --data OUT/train ...
    python -m bench.run --task classification/imagenet --data-root ROOT ...     (OUT being ROOT/imagenet)

writes OUT/<split>/000000.tar, ... and their hashes into OUT/<split>/manifest.json: the layout of
`pretrain.shards`. The same command goes on after a kill, within the tar that was being written. How
tasks find it: `bench.datasets.tar_files`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from bench.datasets import tar_files
from bench.datasets.catalogue import Entry, missing
from bench.datasets.dataset import Dataset
from bench.datasets.images import as_rgb
from bench.datasets.items import Items
from bench.datasets.tar_files import MANIFEST
from bench.errors import UserError
from bench.files import digest, file_sha256, locked_folder, write_atomic
from bench.processes import spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The images of a split, below the data set's folder."""

    name: str
    folder: Path
    items: Items

    def member(self, place: int) -> str:
        """The name in the tar: the class's number and name as a folder, so that these sort alike."""
        label = int(self.items.labels[place])
        name = re.sub(r"[^\w.-]+", "_", self.items.classes[label])[:60]
        return f"{label:05d}-{name}/{place:08d}.jpg"

    def state(self, places: range) -> str:
        """A hash of the paths, sizes and classes of some images: whether they are still the same."""
        value = hashlib.sha256()
        for place in places:
            path = self.items.files[place]
            said = f"{path.relative_to(self.folder)} {path.stat().st_size} {self.member(place)}\n"
            value.update(os.fsencode(said))
        return value.hexdigest()


def source_of(entry: Entry, split: str, data_root: Path | None, out: Path) -> Source:
    """The images of a split; raises UserError where they cannot be prepared, or not into `out`."""
    dataset, task = entry.dataset.only([split]), entry.tasks[0]
    folder = dataset.locate(data_root)
    if tar_files.is_copy(dataset, folder):
        raise UserError(
            f"{folder} holds {dataset.name} as it was prepared; nothing is converted twice. Give the data root of the "
            f"original with --data-root."
        )
    _check_out(entry.dataset, folder, out / split)
    items = task.items(folder, split) if task.items else None
    if items is None or not len(items.files):
        raise UserError(
            f"{task.name} cannot be prepared: that is for sets of image files with one class each, and large "
            f"ones; labels of other kinds would no longer fit images of another size. Use it as it is."
        )
    return Source(name=f"{dataset.name} {split}", folder=folder, items=items)


def _check_out(dataset: Dataset, folder: Path, out: Path) -> None:
    """Refuse to write among the original's own files, of which its fingerprint is made."""
    for path in (folder.joinpath(part).resolve() for part in dataset.paths):
        if out.resolve().is_relative_to(path):
            raise UserError(
                f"{out} lies within {path}, which is {dataset.name} itself. Give an --out elsewhere; tasks find it "
                f"where it is named {dataset.name} below another data root."
            )


def check_apart(sources: Sequence[Source]) -> None:
    """No image may be in two splits: in a tar it has another name, and no one could tell any more."""
    seen: dict[str, str] = {}
    for source in sources:
        names = {str(path) for path in source.items.files}
        if both := sorted(names & seen.keys()):
            raise UserError(
                f"{len(both)} image(s) are listed for {seen[both[0]]} and for {source.name}: {both[0]}. Restore the "
                f"lists from where the data set comes."
            )
        seen |= dict.fromkeys(names, source.name)


DAMAGED = (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What becomes of an image; part of every fingerprint.

    Args:
        short_side: pixels of the shorter side; a JPEG that has no more stays as it is, byte by byte.
        quality: of the JPEG that is written (4:2:0); resized by bicubic interpolation, antialiased.
        per_tar: images of a tar.
        version: raised when other bytes come of the same image.
    """

    short_side: int = 256
    quality: int = 90
    per_tar: int = 10_000
    version: int = 1


RECIPE = Recipe()


def prepare(entries: Sequence[Entry], data_root: Path | None, out: Path, recipe: Recipe = RECIPE) -> Iterator[str]:
    """Convert every split that is there, and say what was done; a finished tar is only compared by size.

    Raises UserError for a set that is no set of image files with a class each, an image that cannot be
    read, and an `out` that holds something else.
    """
    if len(entries) > 1:
        names = " or ".join(entry.tasks[0].name for entry in entries)
        raise UserError(f"One data set is prepared at a time. Name {names}.")
    entry = entries[0]
    reasons = {s: missing(entry.dataset, s, data_root) for s in entry.dataset.splits}
    there = [split for split, reason in reasons.items() if reason is None]
    if not there:
        raise next(reason for reason in reasons.values() if reason)
    found = {split: source_of(entry, split, data_root, out) for split in there}
    check_apart(list(found.values()))
    for split, source in found.items():
        yield _split(source, out / split, recipe)
    for split in reasons.keys() - there:
        yield f"{entry.dataset.name} {split}: missing, and left out"


def _split(source: Source, out: Path, recipe: Recipe) -> str:
    """Write what is missing of a split's tars, and verify each; one process at a time."""
    out.mkdir(parents=True, exist_ok=True)
    with locked_folder(out):
        return _held(source, out, recipe)


def _held(source: Source, out: Path, recipe: Recipe) -> str:
    manifest = _manifest(source, out, recipe)
    starts = range(0, source.items.count, recipe.per_tar)
    made = 0
    for number, start in enumerate(starts):
        name = f"{number:06d}.tar"
        places = range(start, min(start + recipe.per_tar, source.items.count))
        state = source.state(places)
        if told := manifest["tars"].get(name):
            _compare(out / name, told, state)
            continue
        made += _write(source, out / name, places, recipe)
        manifest["tars"][name] = {
            "bytes": (out / name).stat().st_size,
            "images": len(places),
            "sha256": file_sha256(out / name),
            "made_from": state,
        }
        write_atomic(out / MANIFEST, json.dumps(manifest, indent=1))
    size = sum(told["bytes"] for told in manifest["tars"].values())
    return (
        f"{source.name}: {source.items.count:,} images in {len(starts)} tar files of {size / 1e9:.2f} GB in {out}, "
        f"{made:,} of them converted now; fingerprint {tar_files.of_split(manifest)[:16]}"
    )


def _manifest(source: Source, out: Path, recipe: Recipe) -> dict[str, Any]:
    """What was written so far; raises UserError where it is of something else."""
    about = {
        "dataset": source.name,
        "images": source.items.count,
        "recipe": dataclasses.asdict(recipe),
        "classes": list(source.items.classes),
    }
    new = {**about, "source": digest(about), "tars": {}}
    there = tar_files.read(out)
    if not there:
        if any(out.glob("*.tar")):
            raise UserError(f"{out} holds tar files without a {MANIFEST}. Give another --out.")
        write_atomic(out / MANIFEST, json.dumps(new, indent=1))
        return new
    if there.get("source") != new["source"]:
        differ = [key for key in about if there.get(key) != about[key]]
        raise UserError(
            f"{out} was prepared from something else than {source.name}: {', '.join(differ)} differ. Give another "
            f"--out, or delete that folder."
        )
    return there


def _compare(tar: Path, told: Mapping[str, Any], state: str) -> None:
    """Raise UserError where a finished tar is not as it was, or the images it was made from are not."""
    size = tar.stat().st_size if tar.is_file() else None
    if size != told["bytes"]:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise UserError(
            f"{tar} {found}, and {MANIFEST} beside it says {told['bytes']:,}. Delete the entry of {tar.name} "
            f"there, and prepare again: that tar alone is made anew."
        )
    if told["made_from"] != state:
        raise UserError(
            f"The images that {tar} was made from have changed since. Prepare them into another --out, or delete "
            f"{tar.parent}."
        )


def _write(source: Source, tar: Path, places: range, recipe: Recipe) -> int:
    """Write a tar, after what a killed process left of it; return how many images were converted now."""
    partial = tar.with_suffix(".partial")
    names = [source.member(place) for place in places]
    if tar.is_file():  # whole, but not in the manifest: the kill came between the two
        tar.rename(partial)
    kept, end = _whole(partial, names)
    convert = functools.partial(_convert, source.items.files, recipe)
    left = range(places.start + kept, places.stop)
    with partial.open("r+b" if kept else "wb") as file:
        file.truncate(end)
        file.seek(end)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as writer:
            for name, content in zip(names[kept:], spread(convert, left, tar.name), strict=True):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                writer.addfile(info, io.BytesIO(content))
        file.flush()
        os.fsync(file.fileno())
    _verify(partial, names)
    partial.rename(tar)
    return len(left)


def _whole(partial: Path, expected: Sequence[str]) -> tuple[int, int]:
    """How many of the expected images a cut-off tar holds whole, and where the last of them ends."""
    kept, end = 0, 0
    with contextlib.suppress(FileNotFoundError, tarfile.ReadError), tarfile.open(partial, "r:") as reader:
        for name in expected:
            member = reader.next()
            if member is None or member.name != name:
                break
            if (behind := _end(member)) > partial.stat().st_size:
                break
            kept, end = kept + 1, behind
    return kept, end


def _end(member: tarfile.TarInfo) -> int:
    """Where a member's last block ends."""
    return member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _convert(files: Sequence[Path], recipe: Recipe, place: int) -> bytes:
    """An image's file as it belongs into the tar; raises UserError that names the one that is damaged."""
    path = files[place]
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            jpeg = opened.format == "JPEG"
            opened.load()
            width, height = opened.size
            scale = recipe.short_side / min(width, height)
            if scale >= 1 and jpeg:
                return content
            image = as_rgb(opened)
    except DAMAGED as error:
        raise UserError(
            f"The image {path} cannot be read ({error}). Restore it and run the same command again, which goes on "
            f"there."
        ) from None
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=recipe.quality)
    return file.getvalue()


def _verify(tar: Path, names: Sequence[str]) -> None:
    """Read a tar back from the disk: every image is there under its name, and decodes."""
    with tarfile.open(tar, "r:") as reader:
        members = reader.getmembers()
    if [member.name for member in members] != names:
        raise UserError(f"{tar} does not hold what was written to it. Delete it; is the disk full?")
    opens = functools.partial(_opens, tar, members)
    for member, good in zip(members, spread(opens, range(len(members)), "verifying"), strict=True):
        if not good:
            raise UserError(f"{member.name} in {tar} was damaged on its way to the disk. Delete it.")


def _opens(tar: Path, members: Sequence[tarfile.TarInfo], number: int) -> bool:
    with tar.open("rb") as file:
        file.seek(members[number].offset_data)
        content = file.read(members[number].size)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except DAMAGED:
        return False
    return True
