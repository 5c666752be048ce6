"""The images that `prepare` makes tar files of: split by split, and no image in two of them."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bench.datasets import Dataset, prepared
from bench.datasets.catalogue import Entry
from bench.datasets.items import Items
from bench.errors import UserError


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
    if prepared.is_copy(dataset, folder):
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
