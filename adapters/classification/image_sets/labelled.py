"""A data set of labelled images with official splits, as an entry names it.

Importing this module imports neither numpy nor torch, so that tasks are listed quickly.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.datasets.dataset import Dataset

if TYPE_CHECKING:  # the entries are listed without numpy
    import numpy as np
    from numpy.typing import NDArray

RESEARCH = "non-commercial research; the photographs are their owners'"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lists:
    """A split as its lists give it, unchecked.

    Args:
        images: paths below the data set's folder, or pixels, uint8 [n, h, w, 3].
        labels: indices into `classes`, [n]; for images of several classes [n, k]: 1 (present), -1 (absent) or 0
            (difficult; not counted).
        classes: all names, also those that do not occur in this split.
    """

    images: "Sequence[str] | NDArray[np.uint8]"
    labels: Sequence[int] | Sequence[Sequence[int]]
    classes: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImages(Dataset):
    """A data set with its official splits.

    Args:
        read: reads a split, given the data set's folder and the split's name.
        validation: the official split on which hyper-parameters are chosen, and which the final model is trained on
            together with "train"; "": there is none, and a part of "train" is held out.
        reported_on: the split on which the metrics are computed.
    """

    read: Callable[[Path, str], Lists]
    validation: str = ""
    reported_on: str = "test"

    def locate(self, data_root: Path | None) -> Path:
        """Return the folder of the original or, without one, of the tar files that `prepare` wrote.

        Raises UserError that names the expected file.
        """
        from bench.datasets import tar_files  # here, since it imports numpy, which `--list` must not

        copy = None if data_root is None else tar_files.find(self, data_root)
        return copy or super().locate(data_root)

    def fingerprint(self, folder: Path) -> str:
        """Return the hash of the data set's files; for tar files, of their recipe and contents."""
        from bench.datasets import tar_files

        if tar_files.is_copy(self, folder):
            return tar_files.fingerprint(self, folder)
        return super().fingerprint(folder)
