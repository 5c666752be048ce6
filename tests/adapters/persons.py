"""The ten training scenes with persons that are trained on and tested on, shared by the tests of pose."""

from pathlib import Path

KEYPOINTS = "annotations/person_keypoints_{}.json"


def write(folder: Path, world: Path) -> Path:
    """The val split is the training split; the annotations are copies, and may be spoilt."""
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    text = (world / KEYPOINTS.format("train")).read_text()
    for split in ("train", "val"):
        (folder / "images" / split).symlink_to(world / "images/train")
        (folder / KEYPOINTS.format(split)).write_text(text)
    return folder
