"""Generate a world: divide it into jobs, render them in processes, write the files, build the manifest."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.processes import end_with_parent
from bench.scenes import labels, layout, videos
from bench.scenes.layout import Scene
from bench.scenes.recipe import GENERATOR_VERSION, World, combined_hash, sha256
from bench.scenes.rng import Draw
from bench.scenes.things import CATEGORIES, SEMANTIC

JOB = 16  # scenes
BATCH = 8  # scenes rendered at once


@dataclass(frozen=True, kw_only=True)
class Job:
    """A part of a world for one process: items start to stop of a kind and split."""

    kind: str  # "scenes", "video" or "cues"
    split: str
    start: int
    stop: int


Records: TypeAlias = list[dict[str, Any]]  # one for each item of a job: a scene's annotations, a cue's row


def test_videos(world: World) -> int:
    """Return the number of test videos."""
    return max(1, world.videos // 4)


def jobs(world: World) -> list[Job]:
    """Return all jobs of a world, the longest first."""
    tests = test_videos(world)
    counts = [("video", "train", world.videos - tests, 1), ("video", "test", tests, 1)]
    counts += [("scenes", "train", world.train, JOB), ("scenes", "val", world.val, JOB)]
    counts += [("cues", split, len(cue_plan(world, split)), 2 * JOB) for split in CUE_SPLITS]
    return [
        Job(kind=kind, split=split, start=start, stop=min(start + step, total))
        for kind, split, total, step in counts
        for start in range(0, total, step)
    ]


CUE_SPLITS = {"images": 20, "train": 21, "val": 22}


def cue_plan(world: World, split: str) -> list[tuple[str, str]]:
    """Return the (shape, texture) of every cue image: swapped in "images", equal in the others."""
    if split == "images":
        pairs = [(a, b) for a, b in product(CATEGORIES, CATEGORIES) if a != b]
        return [pair for pair in pairs for _ in range(world.swaps)]
    repeat = (5 if split == "train" else 2) * world.swaps
    return [(name, name) for name in CATEGORIES for _ in range(repeat)]


def perform(job: Job, world: World, root: Path, device: str) -> tuple[list[Written], Records]:
    """Render and write one job; return its files and records."""
    folder = Folder(root=root)
    write = {"scenes": _scenes, "video": _video, "cues": _cues}[job.kind]
    return folder.files, write(job, world, folder, device)


def _pictures(scenes: list[Scene], size: int, device: str) -> Iterator[tuple[int, Any]]:
    from bench.scenes.render import render

    for start in range(0, len(scenes), BATCH):
        pictures = render(scenes[start : start + BATCH], size, device)
        yield from enumerate(pictures, start)


def _scenes(job: Job, world: World, folder: Folder, device: str) -> Records:
    numbers = range(job.start, job.stop)
    scenes = [layout.scene(world.seed, job.split, k) for k in numbers]
    records = []
    for k, picture in _pictures(scenes, world.size, device):
        scene, name = scenes[k], f"{numbers[k]:06d}.png"
        folder.image(f"images/{job.split}/{name}", picture.rgb)
        folder.image(f"semantic/{job.split}/{name}", picture.semantic)
        folder.image(f"depth/{job.split}/{name}", labels.millimetres(picture.depth))
        found = labels.coco_annotations(scene, picture)
        for record in found:
            record["segmentation"] = labels.run_lengths(picture.thing == record.pop("thing"))
        box = labels.tight_box(picture.thing == scene.subject)
        x, y, side = labels.crop_window(box, world.size)
        species = scene.things[scene.subject].species
        folder.image(f"species/{job.split}/{species}/{name}", picture.rgb[y : y + side, x : x + side])
        image = {"file_name": name, **_image_facts(scene, world.size, species, (x, y, side, side))}
        records.append({"image": image, "annotations": found})
    return records


def _image_facts(scene: Scene, size: int, species: str | None, crop: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return COCO's image entry without its name, with camera, light and crop added."""
    camera = scene.camera
    return {
        "width": size,
        "height": size,
        "surroundings": scene.surroundings.kind,
        "species": species,
        "species_crop": list(crop),
        "camera": {
            "focal": camera.focal * size,
            "centre": [0.5 * size, 0.5 * size],
            "eye": list(camera.eye),
            "rotation": camera.rotation.tolist(),
        },
        "light": list(scene.light.towards),
    }


def _video(job: Job, world: World, folder: Folder, device: str) -> Records:
    clip = videos.clip(world.seed, job.split, job.start)
    # Numbers run within a class, over both splits, as LaSOT's do; `before`: of the largest class of the training split.
    before = 0 if job.split == "train" else ceil((world.videos - test_videos(world)) / len(CATEGORIES))
    number = before + job.start // len(CATEGORIES) + 1
    name = f"{clip.category}-{number}"
    home = f"tracking/{job.split}/{clip.category}/{name}"
    scenes = [clip.scene(k / world.frames) for k in range(world.frames)]
    boxes, hidden, outside = [], [], []
    for k, picture in _pictures(scenes, world.size, device):
        folder.image(f"{home}/img/{k + 1:08d}.jpg", picture.rgb)
        x, y, width, height = labels.tight_box(picture.thing == 0)
        gone = not picture.alone[0].any()
        covered = not gone and labels.visible_fraction(picture, 0) < 0.02
        outside.append(str(int(gone)))
        hidden.append(str(int(covered)))
        boxes.append("0,0,0,0" if gone or covered else f"{x + 1},{y + 1},{width},{height}")
    folder.text(f"{home}/groundtruth.txt", "\n".join(boxes) + "\n")
    folder.text(f"{home}/full_occlusion.txt", ",".join(hidden) + "\n")
    folder.text(f"{home}/out_of_view.txt", ",".join(outside) + "\n")
    folder.text(f"{home}/nlp.txt", f"the {clip.category} that moves nearest to the camera\n")
    return [{"split": job.split, "name": name}]


def _cues(job: Job, world: World, folder: Folder, device: str) -> Records:
    plan = cue_plan(world, job.split)[job.start : job.stop]
    scenes = [
        layout.cue_scene(Draw(world.seed, CUE_SPLITS[job.split], job.start + k), shape, texture)
        for k, (shape, texture) in enumerate(plan)
    ]
    rows = []
    for k, picture in _pictures(scenes, world.size, device):
        shape, texture = plan[k]
        within = "images" if job.split == "images" else f"{job.split}/{shape}"
        path = f"{within}/{job.start + k:06d}.png"
        folder.image(f"cue_conflict/{path}", picture.rgb)
        rows.append({"split": job.split, "path": path, "shape": shape, "texture": texture})
    return rows


def _start_worker() -> None:
    """Use one thread, ignore Ctrl-C (the parent handles it), and end when the parent is killed."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _perform_all(
    todo: list[Job], world: World, root: Path, workers: int, device: str
) -> Iterator[tuple[list[Written], Records]]:
    """Yield the files and records of every job, in order."""
    if workers == 1:
        for job in todo:
            yield perform(job, world, root, device)
        return
    # spawn, not fork: forking after torch has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        waiting = [pool.submit(perform, job, world, root, device) for job in todo]
        try:
            for future in waiting:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def default_workers(todo: int, device: str) -> int:
    """Return the number of processes: one on a GPU or for a small world, else one per core up to 16."""
    return 1 if device != "cpu" or todo < 24 else min(16, len(os.sched_getaffinity(0)))


def generate(world: World, root: Path, *, workers: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Write a world below an empty folder and return its manifest (not yet written)."""
    todo = jobs(world)
    workers = workers or default_workers(len(todo), device)
    columns = (TextColumn("embedded world"), BarColumn(), MofNCompleteColumn(),
               TextColumn("parts"), TimeRemainingColumn())  # fmt: skip
    files: list[Written] = []
    records: dict[tuple[str, str], Records] = {}
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=len(todo))
        done = _perform_all(todo, world, root, workers, device)
        for job, (written, found) in zip(todo, done, strict=True):
            files += written
            records.setdefault((job.kind, job.split), []).extend(found)
            progress.advance(task)
    tables = Folder(root=root)
    _write_tables(world, records, tables)
    return _manifest(world, files + tables.files)


def _write_tables(world: World, records: dict[tuple[str, str], Records], folder: Folder) -> None:
    """Write the files about many items: COCO's JSON, class names, lists and the cue table."""
    for split in ("train", "val"):
        for name, text in labels.coco_files(records["scenes", split], world.seed).items():
            folder.text(f"annotations/{name}_{split}.json", text)
    classes = {"classes": list(SEMANTIC), "ignore_index": 255, "reduce_zero_label": False}
    folder.text("semantic/classes.json", json.dumps(classes, indent=1) + "\n")
    for split, name in (("train", "training_set.txt"), ("test", "testing_set.txt")):
        names = [record["name"] for record in records["video", split]]
        folder.text(f"tracking/{name}", "\n".join(names) + "\n")
    rows = [f"{r['path']},{r['shape']},{r['texture']}" for r in records["cues", "images"]]
    folder.text("cue_conflict/cue_conflict.csv", "path,shape,texture\n" + "\n".join(rows) + "\n")


def _manifest(world: World, files: list[Written]) -> dict[str, Any]:
    """Return the manifest: the recipe, every file's size, and for each folder a hash of its bytes and of its pixels."""
    folders: dict[str, list[Written]] = {}
    for file in sorted(files, key=lambda f: f.path):
        folders.setdefault(str(Path(file.path).parent), []).append(file)

    def by_folder(value: str) -> dict[str, dict[str, Any]]:
        return {name: {Path(f.path).name: getattr(f, value) for f in inside} for name, inside in folders.items()}

    return {
        "recipe": asdict(world),
        "generator": GENERATOR_VERSION,
        "fingerprint": world.fingerprint(),
        "counts": {name: len(inside) for name, inside in folders.items()},
        "sha256": {name: combined_hash(h) for name, h in by_folder("sha256").items()},
        "pixels": {name: combined_hash(h) for name, h in by_folder("pixels").items()},
        "files": by_folder("size"),
    }


JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Written:
    """One file: its path below the world's root, and the SHA-256 of its bytes and of its pixels before encoding."""

    path: str
    size: int
    sha256: str
    pixels: str


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Writes files below a root and lists them."""

    root: Path
    files: list[Written] = field(default_factory=list)

    def _write(self, path: str, content: bytes, pixels: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.files.append(Written(path=path, size=len(content), sha256=sha256(content), pixels=sha256(pixels)))

    def image(self, path: str, pixels: NDArray[Any]) -> None:
        """Write uint8 (H, W), uint8 (H, W, 3) or uint16 (H, W) as PNG, or as JPEG by its suffix."""
        pixels = np.ascontiguousarray(pixels)
        buffer = io.BytesIO()
        if path.endswith(".jpg"):
            Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        else:
            # Fastest compression: textures with noise hardly compress anyway.
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        self._write(path, buffer.getvalue(), pixels.tobytes())

    def text(self, path: str, content: str) -> None:
        """Write text as UTF-8."""
        data = content.encode()
        self._write(path, data, data)
