"""The videos that are trained and tested on, as their makers lay them out, and how each is scored.

A data set is known by its annotations and by the names and sizes of its frames: to read every pixel of
TrackingNet's 14 million frames would take a day.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.datasets.dataset import UNSTATED, Dataset, EmbeddedWorld, Facts
from bench.files import content_sha256, digest

if TYPE_CHECKING:
    from adapters.tracking.layouts import Listed

# Of each definition in `metrics`, the numbers that stand for it, the first one first.
HEADLINES = {
    "lasot": ("SUC", "P", "Pnorm"),
    "otb": ("SUC", "P"),
    "got10k": ("AO", "SR0.5", "SR0.75"),
    "trackingnet": ("SUC", "P", "Pnorm"),
}
Source = dict[str, str]  # what `sequences.load` takes: layout, folder, split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Videos(Dataset):
    """Sequences in one of the layouts of `layouts`.

    Args:
        layout: which; "coco" is of stills.
        definitions: what `metrics.score` is to compute.
    """

    layout: str
    definitions: tuple[str, ...] = ()

    def sources(self, folder: Path, split: str) -> list[Source]:
        """What to load from the folder that was located."""
        return [{"layout": self.layout, "folder": str(folder), "split": split}]

    def fingerprint(self, folder: Path) -> str:
        """A hash over lists, boxes and labels, and over the frames' names and sizes."""
        if self.layout == "coco":
            return super().fingerprint(folder)
        from adapters.tracking.layouts import listed  # numpy, which a list of tasks does without

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
        """What to load from the world's folder: its videos, and its scenes' boxes to train on as well."""
        layouts = (self.layout, "scenes-stills") if split == "train" else (self.layout,)
        return [{"layout": layout, "folder": str(folder), "split": split} for layout in layouts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(Dataset):
    """The training splits of several data sets together, each below the data root."""

    parts: tuple[Videos, ...]

    def sources(self, folder: Path, split: str) -> list[Source]:
        """What to load from the data root, data set by data set."""
        return [s for part in self.parts for s in part.sources(folder / part.root, split)]

    def fingerprint(self, folder: Path) -> str:
        """The hash of the parts' fingerprints."""
        own = [part.only(tuple(self.splits)) for part in self.parts]
        return digest([part.fingerprint(folder / part.root) for part in own])


def joint(*parts: Videos) -> Joint:
    """Train on several data sets at once."""
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
