"""Draw two pages of an embedded world: scenes with every label; species, tracking frames and cue conflict.

python -m bench.scenes --picture FILE.png
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench.datasets import drawing
from bench.datasets.dataset import Box
from bench.datasets.drawing import Colour, colour
from bench.scenes import layout, videos
from bench.scenes.labels import SMALLEST, crop_window, keypoint_triplets, tight_box, visible_fraction
from bench.scenes.layout import Scene
from bench.scenes.render import Picture, render
from bench.scenes.rng import Draw
from bench.scenes.things import CATEGORIES, SEMANTIC, SKELETON, SPECIES

SIZE, ZOOM = 128, 2
TILE = SIZE * ZOOM
WIDTH = 6 * TILE + 5 * drawing.GAP
PALETTE: tuple[Colour, ...] = (
    (158, 202, 238), (150, 141, 116), (206, 198, 186), (230, 85, 72), (66, 133, 208),
    (245, 180, 40), (138, 92, 190), (160, 100, 60), (70, 160, 92),
)  # fmt: skip
RED = (230, 60, 50)
JOINTS = {2: (120, 255, 120), 1: (40, 40, 40)}  # by COCO's visibility
BONES = [(a - 1, b - 1) for a, b in SKELETON]
CAPTIONS = ("RGB", "depth, metric", "instances, masks and boxes", "semantic classes",
            "keypoints (green 2, dark 1)", "true occlusion, visible share")  # fmt: skip


def draw_page(path: Path, seed: int = 0) -> Path:
    """Draw the labels of a seed's world to `path`, its other tasks to a second file, NAME-tasks, which is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Five bits a channel: the file is small, and colours hardly change.
    five_bits = [(v & 0xF8) | (v >> 5) for v in range(256)] * 3
    drawing.page(list(_label_rows(seed, (62, 30, 40)))).point(five_bits).save(path, optimize=True)
    rows = [
        ("Ten species", "each has one small part of its own; colour, pose, size, clothes are free", _species(seed)),
        ("Tracking", "every third frame: the target moves, turns, is hidden, leaves", _frames(seed, 11)),
        ("", "", _frames(seed, 2)),
        ("Cue conflict", "each class has its own texture; shape / texture are swapped right", _cues(seed)),
    ]
    second = path.with_name(f"{path.stem}-tasks{path.suffix}")
    drawing.page(rows).quantize(256, kmeans=4, dither=Image.Dither.NONE).save(second, optimize=True)
    return second


def _enlarged(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((TILE, TILE), Image.Resampling.NEAREST)


def _across(tiles: Sequence[Image.Image], captions: Sequence[str] = ()) -> list[Image.Image]:
    """Return the tiles scaled so that a row of them is as wide as the page, with their captions."""
    side = (WIDTH - drawing.GAP * (len(tiles) - 1)) // len(tiles)
    scaled = [tile.resize((side, side), Image.Resampling.BICUBIC) for tile in tiles]
    if not captions:
        return scaled
    return [drawing.captioned(tile, caption) for tile, caption in zip(scaled, captions, strict=True)]


def _label_rows(seed: int, indices: Sequence[int]) -> Iterator[drawing.Row]:
    """Yield a row a scene: a tile for each kind of label; the last row has the captions."""
    scenes = [layout.scene(seed, "train", k) for k in indices]
    heading = ("One scene, every label", f"each row is one scene of {SIZE} x {SIZE} pixels")
    for number, (scene, picture) in enumerate(zip(scenes, render(scenes, SIZE), strict=True)):
        semantic = drawing.draw_regions(
            _enlarged(picture.rgb), picture.semantic, dict(enumerate(SEMANTIC)), dict(enumerate(PALETTE)), alpha=1.0
        )
        tiles = [
            _enlarged(picture.rgb),
            drawing.depth_map(picture.depth, (TILE, TILE), limit=30.0, unknown=225),
            _instance_tile(scene, picture),
            semantic,
            _keypoint_tile(scene, picture),
            _occlusion_tile(scene, picture),
        ]
        yield (*(heading if number == 0 else ("", "")), _across(tiles, CAPTIONS if number == len(scenes) - 1 else ()))


def _objects(scene: Scene, picture: Picture) -> list[int]:
    found = [k for k, thing in enumerate(scene.things) if thing.category in CATEGORIES]
    return [k for k in found if (picture.thing == k).sum() >= SMALLEST]


def _zoomed_box(mask: np.ndarray) -> Box:
    x, y, width, height = (ZOOM * value for value in tight_box(mask))
    return x, y, width - 1, height - 1


def _instance_tile(scene: Scene, picture: Picture) -> Image.Image:
    found = _objects(scene, picture)
    colours, masks = [colour(k) for k in found], np.stack([picture.thing == k for k in found])
    pale = _enlarged((0.45 * picture.rgb + 0.3 * 255).astype(np.uint8))
    tile = drawing.draw_masks(pale, masks, colours, alpha=0.6)
    names = [scene.things[k].category for k in found]
    return drawing.draw_boxes(tile, [_zoomed_box(mask) for mask in masks], colours, names)


def _keypoint_tile(scene: Scene, picture: Picture) -> Image.Image:
    tile = _enlarged((0.6 * picture.rgb).astype(np.uint8))
    for k in _objects(scene, picture):
        if scene.things[k].keypoints is not None:
            points = np.array(keypoint_triplets(scene, picture, k)).reshape(-1, 3) * (ZOOM, ZOOM, 1)
            drawing.draw_pose(tile, points, BONES, colour(k), JOINTS)
    return tile


def _occlusion_tile(scene: Scene, picture: Picture) -> Image.Image:
    """Draw visible pixels light and hidden ones striped, with the visible share of each object."""
    image = np.full((SIZE, SIZE, 3), 236.0)
    found = _objects(scene, picture)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    stripes = (rows + columns) % 4 < 2
    for k in found:
        image[picture.thing == k] = 0.45 * np.array(colour(k)) + 0.55 * 255
    for k in found:
        hidden = picture.alone[k] & (picture.thing != k)
        image[hidden & stripes] = 0.8 * np.array(colour(k))
    tile = _enlarged(image.astype(np.uint8))
    for k in found:
        x, y, width, height = _zoomed_box(picture.alone[k])
        text = f"{100 * visible_fraction(picture, k):.0f} %"
        drawing.tag(tile, (x + width / 2, y + height / 2), text, colour(k), centred=True)
    return tile


def _species(seed: int) -> list[Image.Image]:
    """Draw each species' clearest crop in eighty scenes: seen from the front, with the fewest other things."""
    best: dict[str, tuple[int, Image.Image]] = {}
    for start in range(0, 80, 8):
        scenes = [layout.scene(seed, "train", k) for k in range(start, start + 8)]
        for scene, picture in zip(scenes, render(scenes, SIZE), strict=True):
            x, y, side = crop_window(tight_box(picture.thing == scene.subject), SIZE)
            window = np.s_[y : y + side, x : x + side]
            others = int((picture.thing[window] > 0).sum())
            if keypoint_triplets(scene, picture, scene.subject)[2] < 2:
                others += SIZE * SIZE  # the nose is hidden: seen from behind
            name = str(scene.things[scene.subject].species)
            if name not in best or others < best[name][0]:
                best[name] = others, Image.fromarray(np.ascontiguousarray(picture.rgb[window]))
    return _across([best[name][1] for name in SPECIES], SPECIES)


def _frames(seed: int, index: int) -> list[Image.Image]:
    """Draw every third frame of a training video with the target's box, or why it has none."""
    clip = videos.clip(seed, "train", index)
    tiles = []
    for picture in render([clip.scene(3 * k / 32) for k in range(10)], SIZE):
        tile = _enlarged(picture.rgb)
        if not picture.alone[0].any():
            drawing.tag(tile, (4, 4), "out of view", RED)
        elif visible_fraction(picture, 0) < 0.02:
            drawing.tag(tile, (4, 4), "fully occluded", RED)
        else:
            x, y, width, height = _zoomed_box(picture.thing == 0)
            tile = drawing.draw_boxes(tile, [(x - 2, y - 2, width + 4, height + 4)], [RED], width=3)
        tiles.append(tile)
    return _across(tiles)


def _cues(seed: int) -> list[Image.Image]:
    pairs = [(a, CATEGORIES[(k + s) % 6]) for s in (0, 2) for k, a in enumerate(CATEGORIES)]
    scenes = [layout.cue_scene(Draw(seed, 20, k), *pair) for k, pair in enumerate(pairs)]
    captions = [a if a == b else f"{a} / {b}" for a, b in pairs]
    return _across([_enlarged(p.rgb) for p in render(scenes, SIZE)], captions)
