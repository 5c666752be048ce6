"""Draw one page: scenes with every label on them, species, tracking frames, cue conflict.

python -m bench.scenes --picture FILE.png
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.scenes import layout, videos
from bench.scenes.labels import crop_window, keypoint_triplets, tight_box, visible_fraction
from bench.scenes.layout import Scene
from bench.scenes.render import Picture, render
from bench.scenes.rng import Draw
from bench.scenes.things import CATEGORIES, SEMANTIC, SKELETON, SPECIES

Colour: TypeAlias = tuple[int, int, int]

SIZE, ZOOM, GAP, EDGE = 128, 2, 10, 26
TILE = SIZE * ZOOM
WIDTH = 2 * EDGE + 6 * TILE + 5 * GAP
INK, FAINT, PAPER = (28, 30, 38), (105, 110, 122), (255, 255, 255)
PALETTE: tuple[Colour, ...] = (
    (158, 202, 238), (150, 141, 116), (206, 198, 186), (230, 85, 72), (66, 133, 208),
    (245, 180, 40), (138, 92, 190), (160, 100, 60), (70, 160, 92),
)  # fmt: skip


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf" / name, size)


def _enlarged(pixels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((TILE, TILE), Image.Resampling.NEAREST)


def _thing_colour(index: int) -> Colour:
    r, g, b = colorsys.hsv_to_rgb((0.02 + 0.382 * index) % 1.0, 0.75, 0.95)
    return int(255 * r), int(255 * g), int(255 * b)


def _objects(scene: Scene, picture: Picture) -> list[int]:
    return [
        k for k, thing in enumerate(scene.things)
        if thing.category in CATEGORIES and (picture.thing == k).sum() >= 16
    ]  # fmt: skip


def _tag(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: Colour) -> None:
    """Write text on a coloured label whose corner is at (x, y), kept inside the tile."""
    font = _font(11, bold=True)
    width = draw.textlength(text, font) + 6
    x, y = min(max(0.0, x), TILE - width), min(max(0.0, y), TILE - 15.0)
    draw.rectangle((x, y, x + width, y + 14), fill=colour)
    dark = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 140
    draw.text((x + 3, y + 1), text, (0, 0, 0) if dark else PAPER, font)


def _depth_tile(picture: Picture) -> Image.Image:
    from matplotlib import colormaps

    known = picture.depth > 0
    near, far = picture.depth[known].min(), min(30.0, float(picture.depth[known].max()))
    share = np.log(np.clip(picture.depth, near, far) / near) / np.log(far / near)
    colours = (colormaps["turbo"](1.0 - share)[..., :3] * 255).astype(np.uint8)
    colours[~known] = 225
    tile = _enlarged(colours)
    draw = ImageDraw.Draw(tile)
    _tag(draw, 4, TILE - 18, f"{near:.2f} m", (122, 4, 3))
    _tag(draw, TILE, TILE - 18, f"{far:.1f} m" + (" and beyond" if far == 30.0 else ""), (48, 18, 59))
    return tile


def _instance_tile(scene: Scene, picture: Picture) -> Image.Image:
    image = (0.45 * picture.rgb + 0.3 * 255).astype(np.float64)
    found = _objects(scene, picture)
    for k in found:
        mask = picture.thing == k
        image[mask] = 0.4 * picture.rgb[mask] + 0.6 * np.array(_thing_colour(k))
    tile = _enlarged(image.astype(np.uint8))
    draw = ImageDraw.Draw(tile)
    for k in found:
        x, y, width, height = (ZOOM * v for v in tight_box(picture.thing == k))
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline=_thing_colour(k), width=2)
    for k in found:
        x, y, *_ = (ZOOM * v for v in tight_box(picture.thing == k))
        _tag(draw, x, y - 14, scene.things[k].category, _thing_colour(k))
    return tile


def _semantic_tile(picture: Picture) -> Image.Image:
    tile = _enlarged(np.array(PALETTE, dtype=np.uint8)[picture.semantic])
    draw = ImageDraw.Draw(tile)
    for value in np.unique(picture.semantic):
        rows, columns = np.nonzero(picture.semantic == value)
        if len(rows) < 60:
            continue
        # The pixel nearest to the middle of the class, so that the name lies on it.
        distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
        best = int(distance.argmin())
        _tag(draw, ZOOM * columns[best] - 18.0, ZOOM * rows[best] - 7.0, SEMANTIC[value], PALETTE[value])
    return tile


def _keypoint_tile(scene: Scene, picture: Picture) -> Image.Image:
    tile = _enlarged((0.6 * picture.rgb).astype(np.uint8))
    draw = ImageDraw.Draw(tile)
    for k in _objects(scene, picture):
        if scene.things[k].keypoints is None:
            continue
        triplets = keypoint_triplets(scene, picture, k)
        points = [tuple(triplets[3 * j : 3 * j + 3]) for j in range(17)]
        for a, b in SKELETON:
            p, q = points[a - 1], points[b - 1]
            if p[2] and q[2]:
                line = [(ZOOM * p[0], ZOOM * p[1]), (ZOOM * q[0], ZOOM * q[1])]
                draw.line(line, fill=_thing_colour(k), width=2)
        for x, y, v in points:
            if v:
                fill = (120, 255, 120) if v == 2 else (40, 40, 40)
                dot = (ZOOM * x - 3, ZOOM * y - 3, ZOOM * x + 3, ZOOM * y + 3)
                draw.ellipse(dot, fill=fill, outline=PAPER)
    return tile


def _occlusion_tile(scene: Scene, picture: Picture) -> Image.Image:
    """Draw visible pixels light and hidden ones striped, with the visible share of each object."""
    image = np.full((SIZE, SIZE, 3), 236.0)
    found = _objects(scene, picture)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    stripes = (rows + columns) % 4 < 2
    for k in found:
        image[picture.thing == k] = 0.45 * np.array(_thing_colour(k)) + 0.55 * 255
    for k in found:
        hidden = picture.alone[k] & (picture.thing != k)
        image[hidden & stripes] = 0.8 * np.array(_thing_colour(k))
    tile = _enlarged(image.astype(np.uint8))
    draw = ImageDraw.Draw(tile)
    for k in found:
        x, y, width, height = tight_box(picture.alone[k])
        text = f"{100 * visible_fraction(picture, k):.0f} %"
        _tag(draw, ZOOM * (x + width / 2) - 18.0, ZOOM * (y + height / 2) - 7.0, text, _thing_colour(k))
    return tile


class _Page:
    """A white page that grows downward."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH, 4000), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.y = EDGE

    def heading(self, text: str, note: str) -> None:
        self.draw.text((EDGE, self.y), text, INK, _font(19, bold=True))
        offset = self.draw.textlength(text, _font(19, bold=True)) + 14
        self.draw.text((EDGE + offset, self.y + 4), note, FAINT, _font(14))
        self.y += 31

    def row(self, tiles: Sequence[Image.Image], captions: Sequence[str] | None = None) -> None:
        side = (WIDTH - 2 * EDGE - GAP * (len(tiles) - 1)) // len(tiles)
        for k, tile in enumerate(tiles):
            x = EDGE + k * (side + GAP)
            if tile.width != side:
                tile = tile.resize((side, side), Image.Resampling.BICUBIC)
            self.image.paste(tile, (x, self.y))
            if captions:
                self.draw.text((x + 1, self.y + side + 3), captions[k], INK, _font(13))
        self.y += side + GAP + (16 if captions else 0)

    def save(self, path: Path, palette: bool) -> None:
        """Write the page small: 256 colours, or 5 bits a channel where that is small enough."""
        page = self.image.crop((0, 0, WIDTH, self.y + EDGE - GAP))
        if palette:
            page = page.quantize(256, kmeans=4, dither=Image.Dither.NONE)
        else:
            page = page.point([(v & 0xF8) | (v >> 5) for v in range(256)] * 3)
        page.save(path, optimize=True)


def _label_rows(page: _Page, seed: int, indices: Sequence[int]) -> None:
    scenes = [layout.scene(seed, "train", k) for k in indices]
    captions = ("RGB", "depth, metric", "instances, masks and boxes", "semantic classes",
                "keypoints (green 2, dark 1)", "true occlusion, visible share")  # fmt: skip
    for number, (scene, picture) in enumerate(zip(scenes, render(scenes, SIZE), strict=True)):
        tiles = [
            _enlarged(picture.rgb), _depth_tile(picture), _instance_tile(scene, picture),
            _semantic_tile(picture), _keypoint_tile(scene, picture), _occlusion_tile(scene, picture),
        ]  # fmt: skip
        page.row(tiles, captions if number == len(scenes) - 1 else None)


def _species_row(page: _Page, seed: int) -> None:
    """Show, of the first eighty scenes, each species' clearest crop: facing us, least company."""
    best: dict[str, tuple[int, Image.Image]] = {}
    for start in range(0, 80, 8):
        scenes = [layout.scene(seed, "train", k) for k in range(start, start + 8)]
        for scene, picture in zip(scenes, render(scenes, SIZE), strict=True):
            x, y, side = crop_window(tight_box(picture.thing == scene.subject), SIZE)
            window = np.s_[y : y + side, x : x + side]
            others = int((picture.thing[window] > 0).sum())
            if keypoint_triplets(scene, picture, scene.subject)[2] < 2:
                others += SIZE * SIZE  # seen from behind
            name = str(scene.things[scene.subject].species)
            if name not in best or others < best[name][0]:
                crop = Image.fromarray(np.ascontiguousarray(picture.rgb[window]))
                best[name] = others, crop.resize((TILE, TILE), Image.Resampling.BICUBIC)
    page.row([best[name][1] for name in SPECIES], SPECIES)


def _video_row(page: _Page, seed: int, split: str, index: int) -> None:
    clip = videos.clip(seed, split, index)
    times = [3 * k / 32 for k in range(10)]
    tiles = []
    for picture in render([clip.scene(t) for t in times], SIZE):
        tile = _enlarged(picture.rgb)
        x, y, width, height = (ZOOM * v for v in tight_box(picture.thing == 0))
        draw = ImageDraw.Draw(tile)
        if not picture.alone[0].any():
            _tag(draw, 4, 4, "out of view", (230, 60, 50))
        elif visible_fraction(picture, 0) < 0.02:
            _tag(draw, 4, 4, "fully occluded", (230, 60, 50))
        else:
            draw.rectangle((x - 2, y - 2, x + width + 1, y + height + 1), outline=(255, 40, 40), width=3)
        tiles.append(tile)
    page.row(tiles)


def _cue_row(page: _Page, seed: int) -> None:
    pairs = [(a, CATEGORIES[(k + s) % 6]) for s in (0, 2) for k, a in enumerate(CATEGORIES)]
    scenes = [layout.cue_scene(Draw(seed, 20, k), *pair) for k, pair in enumerate(pairs)]
    captions = [a if a == b else f"{a} / {b}" for a, b in pairs]
    page.row([_enlarged(p.rgb) for p in render(scenes, SIZE)], captions)


def draw_page(path: Path, seed: int = 0) -> Path:
    """Draw the labels of a seed's world to `path`, its other tasks to a second file.

    Returns:
        The second file: `path` with "-tasks" after its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    labels, tasks = _Page(), _Page()
    labels.heading("One scene, every label", "each row is one scene of 128 x 128 pixels")
    _label_rows(labels, seed, (62, 30, 40))
    labels.save(path, palette=False)
    tasks.heading("Ten species", "told apart by a small part; colour, pose, size, clothes are free")
    _species_row(tasks, seed)
    tasks.heading("Tracking", "every third frame: the target moves, turns, is hidden, leaves")
    for index in (11, 2):
        _video_row(tasks, seed, "train", index)
    tasks.heading("Cue conflict", "each class has its own texture; shape / texture are swapped right")
    _cue_row(tasks, seed)
    second = path.with_name(f"{path.stem}-tasks{path.suffix}")
    tasks.save(second, palette=True)
    return second
