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
