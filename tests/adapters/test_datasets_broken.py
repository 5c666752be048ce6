"""Every layout of dense labels and of videos with something wrong in it: found by the check, said in a paragraph."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets.__main__ import main


def voc(root: Path) -> Path:
    """Three images of one class each, the border ignored."""
    folder = root / "VOCdevkit/VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    names = [f"2007_00000{k}" for k in range(3)]
    for k, name in enumerate(names):
        Image.new("RGB", (30, 20), (60 * k, 0, 0)).save(folder / f"JPEGImages/{name}.jpg")
        mask = np.full((20, 30), k, np.uint8)
        mask[0] = 255
        Image.fromarray(mask).save(folder / f"SegmentationClass/{name}.png")
    for split in ("train", "val"):
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
    return folder


def nyu(root: Path) -> Path:
    """Two pairs a split; 1 to 4 m."""
    folder = root / "nyu"
    for split in ("train", "test"):
        for part in ("images", "annotations"):
            (folder / part / split / "room").mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (64, 48)).save(folder / f"images/{split}/room/{k}.jpg")
            depth = np.full((48, 64), 1000 + 3000 * k, np.uint16)
            Image.fromarray(depth).save(folder / f"annotations/{split}/room/{k}.png")
    return folder


def ap10k(root: Path) -> Path:
    """One image of one animal a split."""
    folder = root / "ap10k"
    for part in ("annotations", "data"):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(folder / "data/1.jpg")
    animal = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 40, 40], "area": 1600,
              "iscrowd": 0, "num_keypoints": 17, "keypoints": [20, 20, 2] * 17}  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}],
        "annotations": [animal],
        "categories": [{"id": 1, "name": "antelope", "skeleton": [[1, 2]]}],
    }
    for split in ("train", "test"):
        (folder / f"annotations/ap10k-{split}-split1.json").write_text(json.dumps(content))
    return folder


def lasot(root: Path) -> Path:
    """Two sequences of three frames a split."""
    folder = root / "lasot"
    for number in (1, 2):
        home = folder / f"cat/cat-{number}"
        (home / "img").mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (64, 48), (80 * k, 0, 0)).save(home / f"img/{k + 1:08}.jpg")
        (home / "groundtruth.txt").write_text("10,10,20,20\n" * 3)
        for kind in ("full_occlusion", "out_of_view"):
            (home / f"{kind}.txt").write_text("0,0,0")
    for split in ("training", "testing"):
        (folder / f"{split}_set.txt").write_text("cat-1\ncat-2\n")
    return folder


def windows(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def backwards(path: Path) -> None:
    path.write_text("\n".join(reversed(path.read_text().split())))


LAYOUTS = {"voc": voc, "nyu": nyu, "ap10k": ap10k, "lasot": lasot}
VOC_VAL = "ImageSets/Segmentation/val.txt"
HARMLESS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "voc: nothing": ("voc", lambda folder: None),
    "voc: Windows line ends": ("voc", lambda folder: windows(folder / VOC_VAL)),
    "voc: unsorted": ("voc", lambda folder: backwards(folder / VOC_VAL)),
    "nyu: nothing": ("nyu", lambda folder: None),
    "ap10k: nothing": ("ap10k", lambda folder: None),
    "lasot: nothing": ("lasot", lambda folder: None),
    "lasot: Windows line ends": ("lasot", lambda folder: windows(folder / "testing_set.txt")),
    "lasot: Windows boxes": ("lasot", lambda folder: windows(folder / "cat/cat-1/groundtruth.txt")),
    "lasot: unsorted": ("lasot", lambda folder: backwards(folder / "testing_set.txt")),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_changes_nothing_is_no_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    name, change = HARMLESS[case]
    change(LAYOUTS[name](tmp_path))
    status = main(["check", name, "--data-root", str(tmp_path), "--full"])
    said = capsys.readouterr().out
    assert status == 0, said
    count = {"voc": 3, "ap10k": 1}.get(name, 2)
    assert len(re.findall(rf": {count} (?:of [\d,]+ )?(?:images|sequences)", said)) == 2


def write_mask(value: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        mask = np.full((20, 30), value, np.uint8)
        Image.fromarray(mask).save(folder / "SegmentationClass/2007_000001.png")

    return write


def annotated(**changes: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "annotations/ap10k-test-split1.json"
        content = json.loads(path.read_text())
        content["annotations"][0] |= changes
        path.write_text(json.dumps(content))

    return write


def deeper(folder: Path) -> None:
    inner = folder.with_name("moved")
    folder.rename(inner)
    folder.mkdir()
    inner.rename(folder / folder.name)


def more(path: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text((folder / path).read_text() + text) and None


def depth(values: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: Image.fromarray(values).save(folder / "annotations/test/room/1.png")


def gone(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


BROKEN: dict[str, tuple[str, Callable[[Path], None], int, str]] = {
    "voc: no list": ("voc", gone(VOC_VAL), 0, rf"val: missing: .*expected .*{VOC_VAL}; nearest there: .*train\.txt"),
    "voc: too deep": ("voc", deeper, 2, r"expected .*train\.txt; nearest there: .*VOC2012/VOC2012"),
    "voc: an image not there": ("voc", more(VOC_VAL, "2007_000009\n"), 1, r"WRONG val: .*2007_000009\.jpg, which"),
    "voc: label too large": ("voc", write_mask(21), 1, r"WRONG train: .*has the value 21: with 21 classes, 0 to 20"),
    "nyu: a map not there": ("nyu", gone("annotations/test/room/0.png"), 1, "WRONG test: .*has no depth map"),
    "nyu: 8 bits": ("nyu", depth(np.full((48, 64), 9, np.uint8)), 1, "WRONG test: .*is 8 bits a pixel"),
    "nyu: other units": ("nyu", depth(np.full((48, 64), 50000, np.uint16)), 1, "WRONG test: .*most lie beyond 10 m"),
    "nyu: too deep": ("nyu", deeper, 2, "nearest there: .*nyu/nyu"),
    "ap10k: cut off": ("ap10k", lambda f: (f / "annotations/ap10k-test-split1.json").write_text("{") and None, 1,
                       "WRONG test: .*is not JSON"),
    "ap10k: a class too many": ("ap10k", annotated(category_id=2), 1, "WRONG test: .*category_id that the file"),
    "ap10k: a keypoint outside": ("ap10k", annotated(keypoints=[90, 20, 2] * 17), 1, "WRONG test: .*outside its"),
    "ap10k: keypoints of another kind": ("ap10k", annotated(keypoints=[1, 2, 2]), 1, "WRONG test: .*51 finite"),
    "ap10k: an image not there": ("ap10k", gone("data/1.jpg"), 1, "WRONG test: .*1 images that are not in"),
    "lasot: no list": ("lasot", gone("testing_set.txt"), 0, r"test: missing: .*nearest there: .*training_set\.txt"),
    "lasot: no such sequence": ("lasot", more("testing_set.txt", "cat-3\n"), 1, "WRONG test: .*cat-3 is left out"),
    "lasot: a box too many": ("lasot", more("cat/cat-2/groundtruth.txt", "1,1,2,2\n"), 1,
                              r"WRONG test: .*cat-2 is left out: it has 3 frames, but 4 entries"),
    "lasot: a frame lost": ("lasot", gone("cat/cat-1/img/00000002.jpg"), 1, "WRONG test: .*cat-1 .* 1 are missing"),
    "lasot: too deep": ("lasot", deeper, 2, "nearest there: .*lasot/lasot"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    name, harm, status, told = BROKEN[case]
    harm(LAYOUTS[name](tmp_path))
    found = main(["check", name, "--data-root", str(tmp_path)])
    both = capsys.readouterr()
    said = both.out + both.err
    assert re.search(told, said), said
    assert found == status, said
