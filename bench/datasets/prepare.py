"""Convert a large set of image files, once, into tar files of images of 256 pixels.

    python -m bench.datasets prepare imagenet --data-root DIR --out OUT
    python -m pretrain.run --data OUT/train ...
    python -m bench.run --task classification/imagenet --data-root ROOT ...     (OUT being ROOT/imagenet)

writes OUT/<split>/000000.tar, ... and their hashes into OUT/<split>/manifest.json: the layout of `pretrain.shards`.
After a kill, the same command resumes within the tar that was being written. How tasks find the copy:
`bench.datasets.tar_files`.
"""

import dataclasses
import functools
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bench.datasets import tar_files
from bench.datasets.catalogue import Entry, missing
from bench.datasets.dataset import Dataset, Items
from bench.datasets.images import DAMAGED, Member, as_rgb, read
from bench.errors import UserError
from bench.files import digest, locked_folder
from bench.processes import spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an image is converted; part of every fingerprint.

    Args:
        short_side: pixels of the shorter side; a JPEG that has no more is copied byte by byte.
        quality: of the JPEG that is written (4:2:0); resized by bicubic interpolation, antialiased.
        per_tar: images of a tar.
        version: raised when the same image would be converted to other bytes.
    """

    short_side: int = 256
    quality: int = 90
    per_tar: int = 10_000
    version: int = 1


RECIPE = Recipe()


def prepare(entries: Sequence[Entry], data_root: Path | None, out: Path, recipe: Recipe = RECIPE) -> Iterator[str]:
    """Convert every split at the data root, and yield a line about each; of a finished tar only the size is compared.

    Raises:
        UserError: the data set does not consist of image files with one class each, an image cannot be read, or
            `out` holds something else.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The images of a split, and the data set's folder that they are in."""

    name: str
    folder: Path
    items: Items

    def member(self, place: int) -> str:
        """Return an image's name in its tar; its folder is the class's number and name, so both sort alike."""
        label = int(self.items.labels[place])
        name = re.sub(r"[^\w.-]+", "_", self.items.classes[label])[:60]
        return f"{label:05d}-{name}/{place:08d}.jpg"

    def state(self, places: range) -> str:
        """Return a hash of the paths, sizes and classes of some images; it changes when they do."""
        value = hashlib.sha256()
        for place in places:
            path = self.items.files[place]
            value.update(os.fsencode(f"{path.relative_to(self.folder)} {path.stat().st_size} {self.member(place)}\n"))
        return value.hexdigest()


def source_of(entry: Entry, split: str, data_root: Path | None, out: Path) -> Source:
    """Return the images of a split; raises UserError if they cannot be prepared, or not into `out`."""
    dataset, task = entry.dataset.only([split]), entry.tasks[0]
    folder = dataset.locate(data_root)
    if tar_files.is_copy(dataset, folder):
        raise UserError(
            f"{folder} holds a prepared copy of {dataset.name}, which is not converted again. Give the data root of "
            f"the original with --data-root."
        )
    _check_out(entry.dataset, folder, out / split)
    items = task.items(folder, split) if task.items else None
    if items is None or not len(items.files):
        raise UserError(
            f"{task.name} cannot be prepared: only sets of image files with one class each can, since labels of other "
            f"kinds would not fit the resized images. Use the data set as it is."
        )
    return Source(name=f"{dataset.name} {split}", folder=folder, items=items)


def _check_out(dataset: Dataset, folder: Path, out: Path) -> None:
    """Raise UserError if the tars would be among the original's files, and so change its fingerprint."""
    for path in (folder.joinpath(part).resolve() for part in dataset.paths):
        if out.resolve().is_relative_to(path):
            raise UserError(
                f"{out} lies within {path}, which is part of {dataset.name} itself. Give an --out elsewhere: tasks "
                f"find a folder named {dataset.name} below another data root."
            )


def check_apart(sources: Sequence[Source]) -> None:
    """Raise UserError for an image that is in two splits; under its name in a tar, nobody would notice any more."""
    seen: dict[str, str] = {}
    for source in sources:
        names = {str(path) for path in source.items.files}
        if both := sorted(names & seen.keys()):
            raise UserError(
                f"{len(both)} image(s) are listed for {seen[both[0]]} and for {source.name}: {both[0]}. Download "
                f"the lists again."
            )
        seen |= dict.fromkeys(names, source.name)


def _split(source: Source, out: Path, recipe: Recipe) -> str:
    """Write the missing tars of a split, and verify each; return a line about them."""
    out.mkdir(parents=True, exist_ok=True)
    with locked_folder(out):
        manifest = _manifest(source, out, recipe)
        starts = range(0, source.items.count, recipe.per_tar)
        converted = 0
        for number, start in enumerate(starts):
            tar = out / f"{number:06d}.tar"
            places = range(start, min(start + recipe.per_tar, source.items.count))
            state = source.state(places)
            if entry := manifest["tars"].get(tar.name):
                tar_files.check_size(tar, entry, manifest)
                if entry["made_from"] != state:
                    raise UserError(
                        f"The images that {tar} was made from have changed since. Prepare them into another --out, or "
                        f"delete {out}."
                    )
                continue
            names = [source.member(place) for place in places]
            contents = functools.partial(_contents, source, recipe, places, tar.name)
            converted += tar_files.add_tar(tar, manifest, names, contents, verify=_verify, made_from=state)
    size = sum(entry["bytes"] for entry in manifest["tars"].values())
    return (
        f"{source.name}: {source.items.count:,} images in {len(starts)} tar files of {size / 1e9:.2f} GB in {out}, "
        f"{converted:,} of them converted now; fingerprint {tar_files.of_split(manifest)[:16]}"
    )


def _manifest(source: Source, out: Path, recipe: Recipe) -> dict[str, Any]:
    """Return the manifest of the tars written so far; raises UserError if they are of something else."""
    about = {
        "dataset": source.name,
        "images": source.items.count,
        "recipe": dataclasses.asdict(recipe),
        "classes": list(source.items.classes),
    }
    identity = digest(about)
    manifest = tar_files.begin(out, {**about, "source": identity})
    if manifest.get("source") != identity:
        differ = [key for key in about if manifest.get(key) != about[key]]
        raise UserError(
            f"{out} was prepared from something else than {source.name}: {', '.join(differ)} differ. Give another "
            f"--out, or delete that folder."
        )
    return manifest


def _contents(source: Source, recipe: Recipe, places: range, what: str, first: int) -> Iterator[bytes]:
    return spread(functools.partial(_convert, source.items.files, recipe), places[first:], what)


def _convert(files: Sequence[Path], recipe: Recipe, place: int) -> bytes:
    """Return an image's file as it is written into the tar; raises UserError for a damaged one."""
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
            f"The image {path} cannot be read ({error}). Restore it and run the same command again; it resumes there."
        ) from None
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=recipe.quality)
    return file.getvalue()


def _verify(tar: Path, names: Sequence[str]) -> None:
    """Read a tar back from the disk; raises UserError unless every image has its name and decodes."""
    with tarfile.open(tar, "r:") as reader:
        members = reader.getmembers()
    if [member.name for member in members] != names:
        raise UserError(f"{tar} does not hold what was written to it. Delete it; is the disk full?")
    found = [Member(tar=tar, begin=member.offset_data, size=member.size) for member in members]
    checked = spread(lambda number: _decodes(found[number]), range(len(found)), "verifying")
    for name, good in zip(names, checked, strict=True):
        if not good:
            raise UserError(f"{name} in {tar} was damaged on its way to the disk. Delete it.")


def _decodes(member: Member) -> bool:
    try:
        read(member)
    except UserError:
        return False
    return True
