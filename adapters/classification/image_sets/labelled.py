"""A data set of labelled images: its layout's lists, read, checked, and put into one order.

    CUB.listed(folder, "train")      # the images of a split, their labels, the names of the classes

No image is opened, and nothing of torch, nor numpy, is imported.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets.dataset import Dataset
from bench.errors import UserError

if TYPE_CHECKING:  # the entries are listed without numpy
    import numpy as np
    from numpy.typing import NDArray

    from adapters.classification.image_sets.checked import Listed

RESEARCH = "non-commercial research; the photographs are their owners'"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lists:
    """One split as its lists have it.

    Args:
        images: paths below the data set's folder, or pixels, uint8 [n, h, w, 3].
        labels: indices into `classes`, [n]; or of images of many classes [n, k]: 1 there, -1 not there,
            0 there but hard to see, which counts neither way.
        classes: all names, whether they occur in this split or not.
    """

    images: "Sequence[str] | NDArray[np.uint8]"
    labels: Sequence[int] | Sequence[Sequence[int]]
    classes: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImages(Dataset):
    """A data set with its official splits.

    Args:
        read: gives a split, by the data set's folder and the split's name.
        validation: an official split that hyper-parameters are chosen on, and that the final model is
            trained on with "train"; "": there is none, and a part of "train" is held out.
        reported_on: the split that the numbers are of.
    """

    read: Callable[[Path, str], Lists]
    validation: str = ""
    reported_on: str = "test"

    def locate(self, data_root: Path | None) -> Path:
        """Return the folder of the original or, where that is not there, of what `prepare` made of it.

        Raises UserError that names the file expected.
        """
        from bench.datasets import tar_files  # here, since it imports numpy, which `--list` must not

        copy = None if data_root is None else tar_files.find(self, data_root)
        return copy or super().locate(data_root)

    def fingerprint(self, folder: Path) -> str:
        """As every data set's; of tar files, the hash of their recipe and contents."""
        from bench.datasets import tar_files

        if tar_files.is_copy(self, folder):
            return tar_files.fingerprint(self, folder)
        return super().fingerprint(folder)

    def listed(self, folder: Path, split: str) -> "Listed":
        """Read a split, by path; raises UserError that names what is wrong with its files.

        The order is that of the paths, whatever the lists' is; tar files were written in it.
        """
        from adapters.classification.image_sets import checked
        from bench.datasets import tar_files

        if tar_files.is_copy(self, folder):
            return checked.packed(self, folder, split)
        return checked.listed(self, folder, split)


def rows(path: Path, columns: int) -> list[list[str]]:
    """The lines of a list, split at spaces into so many columns, the last of which may have spaces.

    Empty lines are left out; lines may end as on Windows. Raises UserError for a line of fewer columns.
    """
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        found.append(line.strip().split(maxsplit=columns - 1))
        if len(found[-1]) != columns:
            raise UserError(
                f"Line {number} of {path}, {line[:60]!r}, has {len(found[-1])} column(s) where {columns} are "
                f"expected. Restore the list from where the data set comes."
            )
    return found


def by_id(path: Path) -> dict[str, str]:
    """A list of lines "id value"; raises UserError for an id that occurs twice."""
    pairs = rows(path, 2)
    found = {key: value for key, value in pairs}  # noqa: C416
    if len(found) != len(pairs):
        twice = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise UserError(f"{path} lists {twice} twice. Restore it from where the data set comes.")
    return found


def looked_up(table: Mapping[str, Any], key: str, path: Path) -> Any:
    """What a list says of a key; raises UserError that names the list and the key it lacks."""
    if key not in table:
        raise UserError(
            f"{path} says nothing of {key}, which another list of the same data set names. Both must be of one "
            f"edition: restore them from where the data set comes."
        )
    return table[key]
