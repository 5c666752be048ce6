"""The data sets of videos: their facts and scores, and where each layout has frames, boxes and labels.

    listed("got10k", folder, "val")

Boxes are counted from 1 in LaSOT, OTB and GOT-10k, whose tools are MATLAB's or pass frames to trackers that
subtract 1; from 0 in TrackingNet and COCO.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.datasets.dataset import UNSTATED, Dataset, EmbeddedWorld, Facts
from bench.errors import UserError, unknown
from bench.files import content_sha256, digest

if TYPE_CHECKING:  # a list of tasks does without numpy
    import numpy as np
    from numpy.typing import NDArray

# The headline numbers of each definition in `metric`, the most important one first.
HEADLINES = {
    "lasot": ("SUC", "P", "Pnorm"),
    "otb": ("SUC", "P"),
    "got10k": ("AO", "SR0.5", "SR0.75"),
    "trackingnet": ("SUC", "P", "Pnorm"),
}
Source = dict[str, str]  # arguments of `sequences.load`: layout, folder, split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Videos(Dataset):
    """Sequences in one of the LAYOUTS.

    Args:
        layout: its name, or "coco" for still images.
        definitions: those of `metric.score` that apply.
    """

    layout: str
    definitions: tuple[str, ...] = ()

    def sources(self, folder: Path, split: str) -> list[Source]:
        """Return the arguments of `sequences.load` for a split in the data set's folder."""
        return [{"layout": self.layout, "folder": str(folder), "split": split}]

    def fingerprint(self, folder: Path) -> str:
        """Hash lists, boxes and labels, and the frames' names and sizes.

        Reading every pixel of TrackingNet's 14 million frames would take a day.
        """
        if self.layout == "coco":
            return super().fingerprint(folder)
        lists = {folder / path for paths in self.splits.values() for path in paths}
        files = {path for path in lists if path.is_file()}
        frames = []
        for one in (one for split in self.splits for one in listed(self.layout, folder, split)):
            files |= _annotations(one)
            frames.append((one.name, _frames(one)))
        return digest([content_sha256(folder, files), frames])


def _annotations(one: "Listed") -> set[Path]:
    files = {one.boxes, *(label.file for label in one.labels.values()), one.attributes}
    return {file for file in files if file and file.is_file()}


def _frames(one: "Listed") -> list[tuple[str, int]]:
    if not one.frames.is_dir():
        return []
    with os.scandir(one.frames) as entries:
        return sorted((entry.name, entry.stat().st_size) for entry in entries)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneVideos(EmbeddedWorld):
    """The embedded world's videos."""

    splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: {"train": (), "test": ()})
    layout: str = "scenes"
    definitions: tuple[str, ...] = ("lasot", "got10k")

    def sources(self, folder: Path, split: str) -> list[Source]:
        """Return the sources of a split: the world's videos and, for training, its scenes' boxes."""
        layouts = (self.layout, "scenes-stills") if split == "train" else (self.layout,)
        return [{"layout": layout, "folder": str(folder), "split": split} for layout in layouts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(Dataset):
    """The training splits of several data sets together, each below the data root."""

    parts: tuple[Videos, ...]

    def sources(self, folder: Path, split: str) -> list[Source]:
        """Return the sources of all parts, below the data root."""
        return [s for part in self.parts for s in part.sources(folder / part.root, split)]

    def fingerprint(self, folder: Path) -> str:
        """Hash the parts' fingerprints."""
        own = [part.only(tuple(self.splits)) for part in self.parts]
        return digest([part.fingerprint(folder / part.root) for part in own])


def joint(*parts: Videos) -> Joint:
    """Return the joint training split of several data sets."""
    paths = (f"{part.root}/{path}" for part in parts for path in part.splits["train"])
    return Joint(
        name="+".join(part.name for part in parts),
        source="; ".join(part.source for part in parts),
        licence="; ".join(part.licence for part in parts),
        root=".",
        splits={"train": tuple(paths)},
        parts=parts,
    )


SCENES = SceneVideos()
LASOT = Videos(
    name="lasot",
    source="http://vision.cs.stonybrook.edu/~lasot/",
    licence="personal, academic or educational use",
    root="lasot",
    splits={"train": ("training_set.txt",), "test": ("testing_set.txt",)},
    layout="lasot",
    definitions=("lasot",),
    facts=Facts(
        counts={"train": 1_120, "test": 280},
        gigabytes=227,
        md5={"testing_set.txt": "7a3990cb60b2df9f41345738ce1cb788"},
        files={"airplane/airplane-1/": "img/, groundtruth.txt, full_occlusion.txt, out_of_view.txt"},
        known_from="HengLan/LaSOT_Evaluation_Toolkit: 280 of 1,400 sequences are tested on; size on one lab's disks "
        "(DeepInsight-PCALab/Dataset-Catalog-, issue 47)",
    ),
)
GOT10K = Videos(
    name="got10k",
    source="http://got-10k.aitestunion.com",
    licence="CC BY-NC-SA 4.0",
    root="got10k",
    splits={"train": ("train/list.txt",), "val": ("val/list.txt",), "test": ("test/list.txt",)},
    layout="got10k",
    definitions=("got10k",),
    facts=Facts(
        counts={"train": 9_335, "val": 180, "test": 180},
        gigabytes=68,
        files={"val/GOT-10k_Val_000001/": "00000001.jpg, ..., groundtruth.txt, absence.label, cover.label"},
        known_from="wangdongdut/Online-Visual-Tracking-SOTA; train from botaoye/OSTrack, lib/train/data_specs; test by "
        "its folders' numbers; size on one lab's disks (DeepInsight-PCALab/Dataset-Catalog-, issue 53)",
    ),
)
TRACKINGNET = Videos(
    name="trackingnet",
    source="https://tracking-net.org",
    licence="GPL-3.0, as its authors' copy at huggingface.co/datasets/SilvioGiancola/TrackingNet says",
    root="trackingnet",
    splits={"train": ("TRAIN_0",), "test": ("TEST/anno", "TEST/frames")},
    layout="trackingnet",
    definitions=("trackingnet",),
    facts=Facts(
        counts={"train": 30_132, "test": 511},
        gigabytes=1114,
        files={"TRAIN_0/anno/": "boxes, a file a sequence", "TRAIN_0/frames/": "a folder a sequence"},
        known_from="SilvioGiancola/TrackingNet-devkit: 12 chunks of 2,511, about 90 GB each, and 511, 34 GB (issue 19)",
    ),
)
OTB = Videos(
    name="otb",
    source="http://cvlab.hanyang.ac.kr/tracker_benchmark/datasets.html",
    licence=UNSTATED,
    root="otb100",
    splits={"test": (".",)},
    layout="otb",
    definitions=("otb",),
    facts=Facts(
        counts={"test": 100},
        gigabytes=2.76,
        files={"Basketball/": "img/0001.jpg, ..., groundtruth_rect.txt"},
        known_from="its name: 100 targets, two in Jogging and two in Skating2; botaoye/OSTrack lists 100; size on "
        "one lab's disks (DeepInsight-PCALab/Dataset-Catalog-, issue 38)",
    ),
)
COCO = Videos(
    name="coco",
    source="https://cocodataset.org (2017)",
    licence="CC BY 4.0 (annotations)",
    root="coco",
    splits={"train": ("annotations/instances_train2017.json", "train2017")},
    layout="coco",
)


# OTB's site evaluates these between two frames, but distributes more frames.
OTB_FRAMES = {"david": (300, 770), "football1": (1, 74), "freeman3": (1, 460), "freeman4": (1, 283), "diving": (1, 215)}
# In each of these test sequences, one frame has neither a box nor a label of absence (its toolkit's annotations).
LASOT_UNLABELLED = ("lion-5", "microphone-6", "tiger-6")
# The columns of the attribute files of LaSOT's evaluation toolkit (95bf38a).
LASOT_ATTRIBUTES = (
    "IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """A file with one number a frame, and the numbers that mean yes."""

    file: Path
    means: "Callable[[NDArray[np.float64]], NDArray[np.bool_]]" = lambda numbers: numbers != 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """A sequence's files, before they are read.

    Args:
        frames: the folder of its numbered images.
        boxes: its file of boxes, one a frame (`first_only`: only the first frame's).
        base: the coordinate of the first pixel in it.
        labels: attributes of frames.
        absent: names of the labels that mean that the target is not visible.
        attributes: an optional file of 0 and 1 for the whole sequence; `columns` names them.
        unlabelled: whether a box without size means absent even if no label says so.
        part: the numbers of the first and the last frame with a box, if the folder has more frames.
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
    """Return the sequences of a split, each once, in the order of its list; raises UserError without a list."""
    if layout not in LAYOUTS:
        raise unknown("layout of videos", layout, LAYOUTS)
    found = LAYOUTS[layout](folder, split)
    return list({one.name: one for one in found}.values())


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"There is no list of sequences {file}: a text file with one name a line is expected.")
    return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]


def _lasot(folder: Path, split: str, nested: str = "") -> list[Listed]:
    """`<class>/<class>-<k>/`; the frames of full occlusion and out of view are absent."""
    names = _names(folder / ("training_set.txt" if split == "train" else "testing_set.txt"))
    found = []
    for name in names:
        home = folder / nested / name.rpartition("-")[0] / name
        attributes = folder / "att" / f"{name}.txt"
        kinds = ("full_occlusion", "out_of_view")
        labels = {kind: Label(file=home / f"{kind}.txt") for kind in kinds}
        found.append(
            Listed(
                name=name,
                frames=home / "img",
                boxes=home / "groundtruth.txt",
                base=1,
                labels=labels,
                absent=kinds,
                attributes=attributes if attributes.is_file() else None,
                columns=LASOT_ATTRIBUTES,
                unlabelled=name in LASOT_UNLABELLED,
            )
        )
    return found


def _scenes(folder: Path, split: str) -> list[Listed]:
    """The embedded world: LaSOT, with a folder a split."""
    return _lasot(folder / "tracking", split, nested=split)


def _got10k(folder: Path, split: str) -> list[Listed]:
    """`<split>/<name>/`; absent are frames with that label or with less than an eighth of the target visible."""
    found = []
    for name in _names(folder / split / "list.txt"):
        home = folder / split / name
        labels = {
            "absence": Label(file=home / "absence.label"),
            "cut_by_image": Label(file=home / "cut_by_image.label"),
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
    """`TRAIN_0` to `TRAIN_11` (those that exist) and `TEST`, with `anno/` and `frames/`."""
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
            continue  # Human4 and Jogging have an empty file next to the numbered ones
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
