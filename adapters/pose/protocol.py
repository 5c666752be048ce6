"""What tells one pose task from another: where keypoints lie, and how a backbone is trained on them.

Pure: no torch; `adapters.pose` names the values.
"""

import dataclasses
from typing import Literal

from adapters.detection.protocol import COCO_FACTS
from bench.datasets.dataset import Facts
from bench.tasks import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a data set keeps images and keypoints; `{split}` stands for a split's own name.

    Args:
        upstream: mmpose's data set class; names the keypoints, their mirror images and sigmas.
        annotations: JSON file as COCO's.
        detections: JSON file of boxes found in the tested images, as COCO's results; "" for none.
        tested: the split of the Dataset that numbers are reported on.
        has_area: persons have their area; else 0.53 of their box stands for it.
        points_may_leave: hidden joints may lie beyond the image's border.
        has_crowding: images have a `crowdIndex`, as CrowdPose's.
    """

    upstream: str = "CocoDataset"
    num_keypoints: int = 17
    annotations: str
    images: str
    detections: str = ""
    train: str = "train"
    tested: Literal["val", "test"] = "val"
    test: str = ""
    has_area: bool = True
    points_may_leave: bool = False
    has_crowding: bool = False

    def paths(self, split: str) -> tuple[str, str]:
        """The annotations and the images of "train" or of the split tested."""
        name = self.train if split == "train" else self.test or self.tested
        return self.annotations.format(split=name), self.images.format(split=name)

    def splits(self) -> dict[str, tuple[str, ...]]:
        """What a Dataset of this layout is made of."""
        found = {split: self.paths(split) for split in ("train", self.tested)}
        return found | ({"detections": (self.detections,)} if self.detections else {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """How the keypoints of another data set stand for those of the one tested.

    Args:
        layout: of the data set trained on.
        joints: (its keypoint, or two whose midpoint is meant; the keypoint here). Others are not trained.
    """

    layout: Layout
    joints: tuple[tuple[int | tuple[int, int], int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoseProtocol(Protocol):
    """AdamW, linear warm-up, then steps or a cosine; the mean squared error of heatmaps.

    Args:
        bbox_source: whose boxes are cropped at test time; training always takes the annotated ones.
        img_size: height of the crop, as img_width its width; both rounded up to whole patches.
        sigma: of the target Gaussians, in heatmap pixels (4 of the crop's).
        channels: width of the deconvolutions.
        kernel_size: of the deconvolutions, 4 or 2.
        steps: epochs from which on the rate is a tenth; () for a cosine to zero.
        clip_grad: largest norm of the gradient; 0 for any.
        rotation: the crop is turned by up to so many degrees, in 6 of 10 cases.
        scale: and scaled by 1 - scale to 1 + scale.
        shift: and moved by up to this part of the box, in 3 of 10 cases.
        half_body: how often only one half of a well visible person is cropped.
        flip_test: the heatmaps of the crop and of its mirror image are averaged.
        transfer: goes with `train_on`.
    """

    bbox_source: Literal["ground truth", "detector"] = "ground truth"
    img_width: int
    sigma: float = 2.0
    channels: int = 256
    kernel_size: int = 4
    lr: float
    weight_decay: float
    layer_decay: float | None = None
    drop_path: float = 0.0
    clip_grad: float = 0.0
    warmup_epochs: float
    steps: tuple[int, ...] = ()
    rotation: float = 80.0
    scale: float = 0.5
    shift: float = 0.16
    half_body: float = 0.3
    flip_test: bool = True
    test_batch_size: int = 32
    transfer: Transfer | None = None


COCO_PERSONS_FACTS = Facts(
    counts={"train": 118_287, "val": 5_000},
    classes=1,
    gigabytes=19.2,
    files=COCO_FACTS.files,
    known_from="cocodataset.org; also images without a person",
)
CROWDPOSE_FACTS = Facts(
    counts={"train": 12_000, "test": 8_000},
    classes=1,
    files={"images/100000.jpg": "an image of any split"},
    known_from="Jeff-sjtu/CrowdPose: 10,000, 2,000 and 8,000; its train and val are trained on. Its README has no "
    "terms (issue 14 asks for them, unanswered) and no size",
)
AP10K_FACTS = Facts(
    counts={"train": 7_023, "test": 1_997},
    classes=54,
    gigabytes=3.4,
    files={"data/000000000001.jpg": "an image of any split"},
    known_from="AlexTheBad/AP-10K: 10,015 images of 54 species; split 1 of 3 from huggingface.co/datasets/tlpss/"
    "ap10k-cropped-512x512, with 995 to validate on; size of ap-10k.zip from a public guide to its download",
)
