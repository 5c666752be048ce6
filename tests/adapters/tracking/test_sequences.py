"""Sequences in each benchmark's layout, whole and broken."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from moving_squares import SIZE, read_lasot, write_lasot
from PIL import Image

from adapters.tracking.datasets import COCO, GOT10K, LASOT, OTB, SCENES, TRACKINGNET, joint
from adapters.tracking.sequences import load, read_frame
from bench.errors import UserError

TRUTH = [[5 + 2 * k, 7 + k, 12, 12] for k in range(6)]


def pictures(folder: Path, numbers: range, digits: int = 4) -> None:
    folder.mkdir(parents=True)
    for k in numbers:
        Image.new("RGB", SIZE, (k % 256, 9, 9)).save(folder / f"{k:0{digits}d}.jpg")


def test_lasot(tmp_path: Path) -> None:
    folder = write_lasot(tmp_path)
    (folder / "ball/ball-1/out_of_view.txt").write_text("0,0,0,1,0,0\n")
    (folder / "ball/ball-1/full_occlusion.txt").write_text("0,0,0,0,1,0\n")
    ball, box = read_lasot(folder)
    assert (ball.name, ball.size) == ("ball-1", SIZE)
    assert [path.name for path in ball.frames] == [f"{k:08d}.jpg" for k in range(1, 7)]
    np.testing.assert_array_equal(box.boxes, TRUTH)
    assert ball.absent.tolist() == [False, False, False, True, True, False]
    assert (ball.boxes[3:5] == 0).all()
    assert np.flatnonzero(ball.attributes["out_of_view"]).tolist() == [3]
    assert ball.answered
    assert pickle.loads(pickle.dumps(ball)).name == "ball-1"


def test_attributes_of_lasots_toolkit(tmp_path: Path) -> None:
    folder = write_lasot(tmp_path)
    (folder / "att").mkdir()
    (folder / "att/ball-1.txt").write_text("1,0,0,0,0,0,0,0,0,0,1,0,0,0\n")
    ball, box = read_lasot(folder)
    assert [n for n, has in ball.attributes.items() if has is True] == ["IV", "FM"]
    assert "IV" not in box.attributes


def got10k(folder: Path, split: str, cover: str = "8\n8\n0\n4\n8\n8\n") -> Path:
    home = folder / split / "GOT-10k_1"
    pictures(home, range(1, 7), 8)
    (folder / split / "list.txt").write_text("GOT-10k_1\n")
    lines = ["6.0000,8.0000,12.0000,12.0000"] if split == "test" else _lines(",")
    (home / "groundtruth.txt").write_text("\n".join(lines))
    (home / "meta_info.ini").write_text("[METAINFO]\nresolution: (64, 48)\n")
    if split != "test":
        (home / "absence.label").write_text("0\n0\n0\n0\n1\n0\n")
        (home / "cut_by_image.label").write_text("0\n1\n0\n0\n0\n0\n")
        (home / "cover.label").write_text(cover)
    return folder


def _lines(separator: str) -> list[str]:
    return [separator.join(str(v) for v in (x + 1, y + 1, w, h)) for x, y, w, h in TRUTH]


def test_got10k(tmp_path: Path) -> None:
    (one,) = load("got10k", got10k(tmp_path, "val"), "val").sequences
    assert np.flatnonzero(one.absent).tolist() == [2, 4]
    np.testing.assert_array_equal(one.boxes[5], TRUTH[5])
    assert np.flatnonzero(one.attributes["cut_by_image"]).tolist() == [1]
    assert np.flatnonzero(one.attributes["occluded"]).tolist() == [2, 3]


def test_answers_that_a_server_keeps(tmp_path: Path) -> None:
    pictures(tmp_path / "tn/TEST/frames/clip", range(12), 1)  # 10.jpg comes after 9.jpg
    (tmp_path / "tn/TEST/anno").mkdir()
    (tmp_path / "tn/TEST/anno/clip.txt").write_text("5,7,12,12\n")
    (got,) = load("got10k", got10k(tmp_path / "got", "test"), "test").sequences
    (net,) = load("trackingnet", tmp_path / "tn", "test").sequences
    for one in (got, net):
        assert not one.answered
        np.testing.assert_array_equal(one.boxes, TRUTH[:1])
    assert [path.stem for path in net.frames] == [str(k) for k in range(12)]


def test_trackingnet_is_trained_on_by_the_chunks_that_are_there(tmp_path: Path) -> None:
    root = tmp_path / "trackingnet"
    for chunk, name in (("TRAIN_0", "one"), ("TRAIN_10", "two"), ("TEST", "asked")):
        pictures(root / chunk / "frames" / name, range(6), 1)
        (root / chunk / "anno").mkdir()
        boxes = "\n".join(",".join(map(str, box)) for box in TRUTH)
        (root / chunk / "anno" / f"{name}.txt").write_text(boxes)
    found = load("trackingnet", TRACKINGNET.only(("train",)).locate(tmp_path), "train")
    assert [one.name for one in found.sequences] == ["one", "two"]
    np.testing.assert_array_equal(found.sequences[0].boxes, TRUTH)


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", "   "])
def test_otb_with_any_separator(tmp_path: Path, separator: str) -> None:
    pictures(tmp_path / "Jogging/img", range(1, 7))
    for number in (1, 2):
        file = tmp_path / f"Jogging/groundtruth_rect.{number}.txt"
        file.write_text("\r\n".join(_lines(separator)) + "\r\n\r\n")
    found = load("otb", tmp_path, "test")
    assert [one.name for one in found.sequences] == ["Jogging.1", "Jogging.2"]
    np.testing.assert_array_equal(found.sequences[0].boxes, TRUTH)


def test_otbs_sequences_of_a_part_of_their_frames(tmp_path: Path) -> None:
    pictures(tmp_path / "David/img", range(298, 306))
    (tmp_path / "David/groundtruth_rect.txt").write_text("\n".join(_lines(",")))
    (one,) = load("otb", tmp_path, "test").sequences
    assert (one.frames[0].stem, len(one.frames)) == ("0300", 6)


def test_coco_boxes_are_stills(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    things = [
        {"id": 1, "image_id": 7, "iscrowd": 0, "bbox": [1.5, 2, 3, 4]},
        {"id": 2, "image_id": 7, "iscrowd": 1, "bbox": [1, 2, 3, 4]},
        {"id": 3, "image_id": 7, "iscrowd": 0, "bbox": [1, 2, 0, 4]},
    ]
    told = {"images": [{"id": 7, "file_name": "7.jpg", "width": 9, "height": 8}], "annotations": things}
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(told))
    found = load("coco", tmp_path, "train")
    (one,) = found.sequences
    assert one.frames == (tmp_path / "train2017/7.jpg",)
    assert one.boxes.tolist() == [[1.5, 2, 3, 4]]
    assert set(found.problems) == {"annotation 3"}


def test_frames_are_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (9, 5), (200, 100, 50)).save(tmp_path / "1.png")
    Image.new("L", (9, 5), 77).save(tmp_path / "2.png")
    assert read_frame(tmp_path / "1.png")[0, 0].tolist() == [200, 100, 50]
    assert read_frame(tmp_path / "2.png").shape == (5, 9, 3)
    with pytest.raises(UserError, match=r"3\.png is missing or not an image"):
        read_frame(tmp_path / "3.png")


def _line(number: int, text: str) -> str:
    lines = _lines(",")
    lines[number] = text
    return "\n".join(lines)


BROKEN = {
    "no size": ("groundtruth.txt", _line(2, "9,9,0,12"), "line 3 .*a box of no size"),
    "negative": ("groundtruth.txt", _line(2, "9,9,5,-2"), "line 3 .*a box of no size"),
    "outside": ("groundtruth.txt", _line(2, "65,9,5,5"), "line 3 .*outside the image of 64x48"),
    "left of it": ("groundtruth.txt", _line(0, "-9,9,10,5"), "line 1 .*outside"),
    "nan": ("groundtruth.txt", _line(4, "NaN,NaN,NaN,NaN"), "line 5 .*no number in its box"),
    "words": ("groundtruth.txt", _line(4, "a,b,c,d"), "line 5 .*'a,b,c,d'"),
    "three": ("groundtruth.txt", _line(1, "1,2,3"), "line 2 .*'1,2,3'"),
    "five": ("groundtruth.txt", "1 2 3 4 5\n" * 6, "5 numbers a line"),
    "empty": ("groundtruth.txt", "", "no numbers"),
    "short": ("groundtruth.txt", "\n".join(_lines(",")[:5]), "6 frames, but 5 entries in groundt"),
    "labels": ("out_of_view.txt", "0,0,0,0,0,0,0", "6 frames, but 7 entries in out_of_view.txt"),
    "absent first": ("full_occlusion.txt", "1,0,0,0,0,0", "absent in the first frame"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_sequence_is_named_and_the_others_are_read(tmp_path: Path, what: str) -> None:
    name, text, said = BROKEN[what]
    folder = write_lasot(tmp_path)
    (folder / "ball/ball-1" / name).write_text(text)
    found = load("lasot", folder, "test")
    assert [one.name for one in found.sequences] == ["box-1"]
    with pytest.raises(UserError, match=rf"The sequence ball-1 is left out: .*{said}"):
        raise UserError(found.problems["ball-1"])
    assert "\n" not in found.problems["ball-1"]


def test_missing_frames_files_and_folders_are_named(tmp_path: Path) -> None:
    names = ("a-1", "b-1", "c-1", "d-1", "e-1", "f-1")
    folder = write_lasot(tmp_path, (*names, "whole-1"))
    (folder / "a/a-1/img/00000003.jpg").unlink()
    (folder / "b/b-1/img/00000006.jpg").unlink()
    (folder / "c/c-1/groundtruth.txt").unlink()
    os.rename(folder / "d", folder / "gone")  # noqa: PTH104
    (folder / "e/e-1/img/00000001.jpg").write_bytes(b"no image")
    for k in range(2, 7):
        (folder / f"f/f-1/img/{k:08d}.jpg").unlink()
    for file in ("groundtruth.txt", "full_occlusion.txt", "out_of_view.txt"):
        (folder / "f/f-1" / file).write_text("6,8,12,12" if file == "groundtruth.txt" else "0")
    found = load("lasot", folder, "test")
    assert [one.name for one in found.sequences] == ["whole-1"]
    said = [found.problems[name] for name in names]
    for text, words in zip(
        said, ("1 are missing in .*: 3", "5 frames", "no .*groundtruth", "no ", "not an image", "1 frame,"), strict=True
    ):
        with pytest.raises(UserError, match=words):
            raise UserError(text)


def test_frames_without_a_box_are_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_lasot(tmp_path, split="training")
    text = "\n".join(["99,9,5,5", "nan,nan,nan,nan", "9,9,0,5", *_lines(",")[3:]])
    (folder / "ball/ball-1/groundtruth.txt").write_text(text)
    ball, box = load("lasot", folder, "train").sequences
    assert ball.absent.tolist() == [True, True, True, False, False, False]
    assert (ball.boxes[:3] == 0).all()
    assert not box.absent.any()
    assert "3 frames of 1 sequences" in caplog.text
    assert "(ball-1)" in caplog.text


def test_the_frame_that_lasot_forgot_is_one_without_the_target(tmp_path: Path) -> None:
    folder = write_lasot(tmp_path, ("lion-5", "lion-6"))
    for name in ("lion-5", "lion-6"):
        (folder / "lion" / name / "groundtruth.txt").write_text(_line(2, "1,1,-1,-1"))
    found = load("lasot", folder, "test")
    assert [one.name for one in found.sequences] == ["lion-5"]
    assert np.flatnonzero(found.sequences[0].absent).tolist() == [2]


def test_a_split_of_no_usable_sequence_is_refused(tmp_path: Path) -> None:
    folder = write_lasot(tmp_path)
    for name in ("ball", "box"):
        (folder / name / f"{name}-1/groundtruth.txt").write_text("")
    with pytest.raises(UserError, match=r"None of the 2 listed.*ball-1 is left out.*box-1"):
        load("lasot", folder, "test")


def test_what_is_labelled_absent_needs_no_box(tmp_path: Path) -> None:
    folder = write_lasot(tmp_path)
    home = folder / "ball/ball-1"
    (home / "groundtruth.txt").write_text(_line(2, "nan nan nan nan").replace("nan ", "nan,"))
    (home / "full_occlusion.txt").write_text("0,0,1,0,0,0")
    assert read_lasot(folder)[0].boxes[2].tolist() == [0, 0, 0, 0]


def test_a_missing_list_or_unknown_layout_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no list of sequences .*training_set"):
        load("lasot", tmp_path, "train")
    with pytest.raises(UserError, match="Did you mean lasot"):
        load("lasott", tmp_path, "train")


def test_a_fingerprint_tells_boxes_and_frames_not_places(tmp_path: Path) -> None:
    first, second = write_lasot(tmp_path / "a"), write_lasot(tmp_path / "b")
    test = LASOT.only(("test",))
    known = test.fingerprint(first)
    assert test.fingerprint(second) == known
    (second / "ball/ball-1/img/00000003.jpg").unlink()
    changed = test.fingerprint(second)
    boxes = second / "ball/ball-1/groundtruth.txt"
    boxes.write_text(boxes.read_text().replace("8", "9"))
    assert len({known, changed, test.fingerprint(second)}) == 3


def test_several_data_sets_are_trained_on_at_once(tmp_path: Path) -> None:
    write_lasot(tmp_path / "lasot", split="training")
    got10k(tmp_path / "got10k", "train")
    both = joint(LASOT, GOT10K)
    folder = both.locate(tmp_path)
    found = [load(s["layout"], Path(s["folder"]), s["split"]) for s in both.sources(folder, "train")]
    assert [len(one.sequences) for one in found] == [2, 1]
    before = both.fingerprint(folder)
    (tmp_path / "got10k/train/GOT-10k_1/cover.label").write_text("8\n" * 6)
    assert both.fingerprint(folder) != before
    with pytest.raises(UserError, match="trackingnet/TRAIN_0"):
        joint(LASOT, TRACKINGNET, COCO).locate(tmp_path)


def test_the_embedded_worlds_videos(world: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        source, *_ = SCENES.sources(world, split)
        found = load(source["layout"], Path(source["folder"]), source["split"])
        assert (len(found.sequences), found.problems) == (count, {})


@pytest.mark.data
def test_the_real_data_sets_have_no_problems() -> None:
    root = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[4] / "shared/data"))
    for dataset, split, count in ((LASOT, "test", 2), (GOT10K, "val", 3), (OTB, "test", 4)):
        if not (root / dataset.root).is_dir():
            pytest.skip(f"no real videos: {root / dataset.root} does not exist (set BENCH_DATA)")
        folder = dataset.only((split,)).locate(root)
        found = load(dataset.layout, folder, split)
        assert not found.problems
        assert len(found.sequences) >= count
