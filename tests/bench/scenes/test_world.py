"""A world on disk: standard formats, one making for many processes, nothing half written accepted."""

import csv
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes_by_hand import SMALL, TINY

from bench.errors import UserError
from bench.scenes.__main__ import main
from bench.scenes.things import CATEGORIES, SEMANTIC, SPECIES
from bench.scenes.world import check, ensure, make


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _json(path: Path):
    return json.loads(path.read_text())


@pytest.fixture
def copied(small_world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_world, tmp_path / "copy"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_files_load_and_masks_decode_to_their_areas_and_boxes(small_world, split):
    from faster_coco_eval import COCO

    coco = COCO(str(small_world / f"annotations/instances_{split}.json"))
    assert {c["name"] for c in coco.loadCats(coco.getCatIds())} == set(CATEGORIES)
    assert len(coco.getImgIds()) == getattr(SMALL, split)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert mask.sum() == annotation["area"]
        assert box == annotation["bbox"]
        name = coco.loadImgs(annotation["image_id"])[0]["file_name"]
        semantic = _pixels(small_world / "semantic" / split / name)
        category = CATEGORIES[annotation["category_id"] - 1]
        assert (semantic[mask == 1] == SEMANTIC.index(category)).all()
        depth = _pixels(small_world / "depth" / split / name)
        assert depth.dtype == np.uint16
        assert depth[mask == 1].min() == pytest.approx(annotation["distance"] * 1000, abs=1)


def test_keypoint_file_names_seventeen_points_and_agrees_with_the_masks(small_world):
    from faster_coco_eval import COCO

    coco = COCO(str(small_world / "annotations/person_keypoints_train.json"))
    category = coco.loadCats(coco.getCatIds())[0]
    assert len(category["keypoints"]) == 17
    assert category["keypoints"][0] == "nose"
    assert len(category["skeleton"]) == 19
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) >= SMALL.train
    for annotation in annotations:
        points = np.array(annotation["keypoints"]).reshape(17, 3)
        assert annotation["num_keypoints"] == (points[:, 2] > 0).sum()
        mask = coco.annToMask(annotation)
        for x, y, _ in points[points[:, 2] == 2]:
            assert mask[int(y), int(x)]


def test_species_crops_are_balanced_and_cut_from_the_named_subject(small_world):
    for image in _json(small_world / "annotations/instances_train.json")["images"]:
        name, (x, y, side, _) = image["file_name"], image["species_crop"]
        crop = _pixels(small_world / "species/train" / image["species"] / name)
        whole = _pixels(small_world / "images/train" / name)
        assert np.array_equal(crop, whole[y : y + side, x : x + side])
    for split, count in (("train", 2), ("val", 1)):
        folders = {f.name: len(list(f.iterdir())) for f in (small_world / "species" / split).iterdir()}
        assert folders == dict.fromkeys(SPECIES, count)


def test_tracking_folders_follow_lasot(small_world):
    names = set()
    for split, listing, count in (("train", "training_set", 6), ("test", "testing_set", 2)):
        listed = (small_world / f"tracking/{listing}.txt").read_text().split()
        assert len(listed) == count
        names.update(listed)
        for name in listed:
            home = small_world / "tracking" / split / name.rsplit("-", 1)[0] / name
            frames = sorted(p.name for p in (home / "img").iterdir())
            assert frames == [f"{k:08d}.jpg" for k in range(1, SMALL.frames + 1)]
            boxes = np.loadtxt(home / "groundtruth.txt", delimiter=",", ndmin=2)
            flags = [np.loadtxt(home / f, delimiter=",") for f in ("full_occlusion.txt", "out_of_view.txt")]
            absent = (flags[0] + flags[1]) > 0
            assert boxes.shape == (SMALL.frames, 4)
            assert ((boxes[:, 2:] > 0).all(1) == ~absent).all()
            assert (boxes[~absent, :2] >= 1).all()
            assert (boxes[~absent, :2] + boxes[~absent, 2:] - 1 <= SMALL.size).all()
            assert not absent[0]
    assert len(names) == SMALL.videos


def test_the_cue_table_swaps_every_pair_of_classes(small_world):
    with (small_world / "cue_conflict/cue_conflict.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len({(r["shape"], r["texture"]) for r in rows}) == 30
    assert all(r["shape"] != r["texture"] for r in rows)
    assert all((small_world / "cue_conflict" / r["path"]).is_file() for r in rows)
    for split in ("train", "val"):
        assert {f.name for f in (small_world / "cue_conflict" / split).iterdir()} == set(CATEGORIES)


def test_a_second_use_only_looks(small_world):
    start = time.perf_counter()
    assert make(SMALL, small_world) == small_world
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "manifest.json").unlink(), "half written"),
        (lambda r: (r / "manifest.json").write_text('{"recipe": '), "half written"),
        (lambda r: (r / "depth/train/000003.png").unlink(), "000003.png is missing"),
        (lambda r: (r / "images/val/000001.png").write_bytes(b"x"), "000001.png is changed"),
        (lambda r: (r / "images/val/mine.png").write_bytes(b"x"), "mine.png is unexpected"),
        (lambda r: shutil.rmtree(r / "semantic/val"), "is missing"),
    ],
)
def test_a_half_written_or_changed_world_is_refused(copied, damage, message):
    damage(copied)
    with pytest.raises(UserError, match=message) as caught:
        make(SMALL, copied)
    assert "Delete that folder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_flipped_byte_is_found_by_hashing(copied):
    path = copied / "species/train" / SPECIES[0]
    victim = next(path.iterdir())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    check(copied, SMALL)
    with pytest.raises(UserError, match="sha256"):
        check(copied, SMALL, contents=True)


def test_another_world_in_the_same_folder_is_refused(copied):
    with pytest.raises(UserError, match="another world"):
        make(replace(SMALL, seed=1), copied)


def _ensure(cache: str) -> tuple[str, int]:
    root = ensure(TINY, Path(cache), workers=1)
    return str(root), (root / "manifest.json").stat().st_ino


@pytest.mark.long
def test_two_processes_make_one_world_and_leave_nothing_behind(tmp_path):
    stale = tmp_path / "scenes"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map_async(_ensure, [str(tmp_path)] * 2, chunksize=1).get(timeout=300)
    assert first == second
    visible = [p.name for p in stale.iterdir() if not p.name.endswith(".lock")]
    assert visible == [Path(first[0]).name]


@pytest.mark.long
def test_a_killed_run_leaves_what_the_next_one_completes(tmp_path):
    arguments = f"--out {tmp_path}/w --size 10 --videos 4 --frames 2 --swaps 1 --image-size 64 --workers 1"
    command = [sys.executable, "-m", "bench.scenes", *arguments.split()]
    run = subprocess.Popen(command)
    while not list(tmp_path.glob(".w.*.partial/*/*/*")) and run.poll() is None:
        time.sleep(0.02)
    run.kill()
    run.wait()
    assert not (tmp_path / "w").exists()
    assert main(arguments.split()) == 0
    assert [p.name for p in sorted(tmp_path.iterdir())] == [".w.lock", "w"]


def test_an_empty_folder_may_be_named(tmp_path):
    (tmp_path / "w").mkdir()
    assert make(TINY, tmp_path / "w", workers=1).joinpath("manifest.json").is_file()


def test_the_fingerprint_covers_the_whole_recipe():
    other = {"train": 11, "val": 11, "videos": 5, "frames": 3, "swaps": 2, "size": 96, "seed": 1}
    prints = {replace(SMALL, **{k: v}).fingerprint() for k, v in other.items()}
    assert len(prints | {SMALL.fingerprint()}) == len(other) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x", "--size", "3"], "train is 3"),
        (["--out", "x", "--image-size", "9"], "size is 9"),
        (["--out", "x", "--size", "many"], "invalid int value"),
        (["--out", "x", "--seed", "-1"], "seed is -1"),
        (["--out", "x", "--workers", "0"], "--workers is 0"),
        ([], "No folder"),
        (["--out", "nowhere", "--check"], "not a whole embedded world"),
        (["--out", "/proc/world", "--size", "10"], "cannot be written"),
    ],
)
def test_a_wrong_command_gets_one_paragraph_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_naming_a_world_does_not_import_torch():
    code = "import sys; from bench.scenes.world import World; World().fingerprint(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
