"""Where each benchmark keeps a sequence's frames, boxes and labels, and what its labels mean.

    listed("got10k", folder, "val")

Boxes are counted from 1 in LaSOT, OTB and GOT-10k, whose tools are MATLAB's or give frames to
trackers that take 1 off; from 0 in TrackingNet and COCO.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError, unknown

# OTB's site evaluates these between two frames, and ships more.
OTB_FRAMES = {"david": (300, 770), "football1": (1, 74), "freeman3": (1, 460), "freeman4": (1, 283), "diving": (1, 215)}
# In these of its test, one frame has neither a box nor a label that says why (its toolkit's annotations).
LASOT_UNLABELLED = ("lion-5", "microphone-6", "tiger-6")
# The columns of the attribute files of LaSOT's evaluation toolkit (95bf38a).
LASOT_ATTRIBUTES = (
    "IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """A file with a number a frame, and the numbers that mean yes."""

    file: Path
    means: Callable[[NDArray[np.float64]], NDArray[np.bool_]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """A sequence before anything of it is read.

    Args:
        frames: the folder of its numbered images.
        boxes: its file of boxes, one a frame (`first_only`: of the first frame alone).
        base: what the first pixel is called in it.
        labels: attributes of frames.
        absent: the labels that mean that the target cannot be seen.
        attributes: a file of 0 and 1 for the whole sequence, where there is one; `columns` names them.
        unlabelled: whether a box of no size means absent where no label says so.
        part: the numbers of the first and the last frame, where the folder has more than the boxes tell.
    """

    name: str
    frames: Path
    boxes: Path
    base: int
    labels: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    absent: Sequence[str] = ()
    attributes: Path | None = None
    columns: Sequence[str] = ()
    part: tuple[int, int] | None = None
    unlabelled: bool = False
    first_only: bool = False


def listed(layout: str, folder: Path, split: str) -> list[Listed]:
    """The sequences of a split, each once, in the order of its list; raises UserError without one."""
    if layout not in LAYOUTS:
        raise unknown("layout of videos", layout, LAYOUTS)
    found = LAYOUTS[layout](folder, split)
    return list({one.name: one for one in found}.values())


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"There is no list of sequences {file}: a name a line is expected there.")
    return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]


def _nonzero(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.not_equal(values, 0)


def _lasot(folder: Path, split: str, nested: str = "") -> list[Listed]:
    """`<class>/<class>-<k>/`; the frames of full occlusion and out of view are absent."""
    names = _names(folder / ("training_set.txt" if split == "train" else "testing_set.txt"))
    found = []
    for name in names:
        home = folder / nested / name.rpartition("-")[0] / name
        told = folder / "att" / f"{name}.txt"
        kinds = ("full_occlusion", "out_of_view")
        labels = {kind: Label(file=home / f"{kind}.txt", means=_nonzero) for kind in kinds}
        found.append(
            Listed(
                name=name,
                frames=home / "img",
                boxes=home / "groundtruth.txt",
                base=1,
                labels=labels,
                absent=kinds,
                attributes=told if told.is_file() else None,
                columns=LASOT_ATTRIBUTES,
                unlabelled=name in LASOT_UNLABELLED,
            )
        )
    return found


def _scenes(folder: Path, split: str) -> list[Listed]:
    """The embedded world: LaSOT, with a folder a split."""
    return _lasot(folder / "tracking", split, nested=split)


def _got10k(folder: Path, split: str) -> list[Listed]:
    """`<split>/<name>/`: absent is what is labelled so or has no eighth of it visible."""
    found = []
    for name in _names(folder / split / "list.txt"):
        home = folder / split / name
        labels = {
            "absence": Label(file=home / "absence.label", means=_nonzero),
            "cut_by_image": Label(file=home / "cut_by_image.label", means=_nonzero),
            "uncovered": Label(file=home / "cover.label", means=lambda cover: cover == 0),
            "occluded": Label(file=home / "cover.label", means=lambda cover: cover < 8),
        }
        asked = split == "test"
        found.append(
            Listed(
                name=name,
                frames=home,
                boxes=home / "groundtruth.txt",
                base=1,
                labels={} if asked else labels,
                absent=() if asked else ("absence", "uncovered"),
                first_only=asked,
            )
        )
    return found


def _trackingnet(folder: Path, split: str) -> list[Listed]:
    """`TRAIN_0` to `TRAIN_11` (those that are there) and `TEST`, with `anno/` and `frames/`."""
    chunks = sorted(folder.glob("TRAIN_*")) if split == "train" else [folder / "TEST"]
    files = [file for chunk in chunks for file in sorted((chunk / "anno").glob("*.txt"))]
    return [
        Listed(
            name=file.stem,
            frames=file.parents[1] / "frames" / file.stem,
            boxes=file,
            base=0,
            first_only=split == "test",
        )
        for file in files
    ]


def _otb(folder: Path, split: str) -> list[Listed]:
    """`<name>/groundtruth_rect.txt`; two targets of one video are `<name>.1` and `<name>.2`."""
    found = []
    for file in sorted(folder.glob("*/groundtruth_rect*.txt")):
        if not file.read_text("utf-8").strip():
            continue  # Human4 and Jogging come with an empty file beside the numbered ones
        number = file.stem.removeprefix("groundtruth_rect")
        found.append(
            Listed(
                name=f"{file.parent.name}{number}",
                frames=file.parent / "img",
                boxes=file,
                base=1,
                part=OTB_FRAMES.get(file.parent.name.lower()),
            )
        )
    return found


LAYOUTS: Mapping[str, Callable[[Path, str], list[Listed]]] = {
    "lasot": _lasot,
    "scenes": _scenes,
    "got10k": _got10k,
    "trackingnet": _trackingnet,
    "otb": _otb,
}
