"""A few items of every split with their labels drawn on them, as one PNG.

python -m bench.datasets sample NAME
"""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.datasets.catalogue import Entry, missing
from bench.datasets.check import places
from bench.datasets.items import Example
from bench.errors import UserError
from bench.tasks import Task

COLUMNS = 4
TILE = 300  # pixels, height of an image in the picture
WIDEST = 2 * TILE
GAP, LINE = 10, 18
INK, PAPER = (28, 30, 38), (255, 255, 255)
NAMED = 0.005  # part of an image that a region needs to be named
BACKGROUND = "background"  # Pascal VOC's class of all that is no thing: painted, it hides the image
UNKNOWN = 60  # grey of pixels without depth

Colour = tuple[int, int, int]


def draw(entries: Sequence[Entry], data_root: Path | None, path: Path) -> None:
    """Write the picture; raises UserError where nothing is there or an item cannot be used."""
    rows: list[tuple[str, list[Image.Image]]] = []
    problem: UserError | None = None
    for entry in entries:
        for split in entry.dataset.splits:
            if absent := missing(entry.dataset, split, data_root):
                problem = problem or absent
                continue
            folder = entry.dataset.only([split]).locate(data_root)
            tiles = {task.name: _tiles(task, folder, split) for task in entry.readers}
            rows += [(f"{name}: {split}", found) for name, found in tiles.items() if found]
    if not rows:
        raise problem or UserError(f"{entries[0].names} has no images that can be drawn.")
    _sheet(rows).save(path)


def _tiles(task: Task, folder: Path, split: str) -> list[Image.Image]:
    items = task.items(folder, split) if task.items else None
    return [tile(items.read(k)) for k in places(items.count, COLUMNS)] if items else []


def _sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Rows of tiles, each under its heading."""
    width = max(sum(t.width + GAP for t in tiles) for _, tiles in rows) + GAP
    height = sum(LINE + 2 * GAP + max(t.height for t in tiles) for _, tiles in rows) + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, y = ImageDraw.Draw(sheet), GAP
    for heading, tiles in rows:
        pen.text((GAP, y), heading, INK, _font(14, bold=True))
        y, x = y + LINE + GAP // 2, GAP
        for one in tiles:
            sheet.paste(one, (x, y))
            x += one.width + GAP
        y += max(t.height for t in tiles) + GAP
    return sheet


def tile(example: Example) -> Image.Image:
    """An example at the size of the picture's tiles, labelled, with its caption below."""
    width, height = example.image.size
    scale = min(TILE / height, WIDEST / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = example.image.resize(size)
    if example.regions is not None:
        image = _coloured(image, example.regions, example.names)
    pen = ImageDraw.Draw(image)
    if example.regions is not None:
        _name_regions(pen, example, scale)
    for number, corners in example.outlines:
        pen.polygon([scale * value for value in corners], outline=_colour(number))
    for number, (name, (x, y, w, h)) in enumerate(example.boxes):
        colour = _colour(number)
        pen.rectangle((x * scale, y * scale, (x + w) * scale, (y + h) * scale), outline=colour, width=2)
        _tag(pen, image.size, (x * scale, y * scale), name, colour)
    for number, pose in enumerate(example.poses):
        _pose(pen, pose, example.bones, scale, _colour(number))
    parts = [image] if example.depth is None else [image, _depth(example.depth, image.size)]
    return _captioned(parts, example.caption)


def _captioned(parts: Sequence[Image.Image], caption: str) -> Image.Image:
    """Parts of one size beside each other, those of a street below each other."""
    across, down = parts[0].size
    flat = across > 2 * down
    width, height = (across, down * len(parts)) if flat else (across * len(parts), down)
    whole = Image.new("RGB", (width, height + LINE), PAPER)
    for k, part in enumerate(parts):
        whole.paste(part, (0, k * down) if flat else (k * across, 0))
    font, shown = _font(11), caption
    while font.getlength(shown) > width and len(shown) > 4:
        shown = f"{shown[:-4]}..."
    ImageDraw.Draw(whole).text((0, height + 2), shown, INK, font)
    return whole


def _coloured(image: Image.Image, regions: NDArray[Any], names: Mapping[int, str]) -> Image.Image:
    """Half the image, half the colour of each pixel's region; background and what belongs to none stay."""
    found = np.unique(regions)
    shown = {value for value, name in names.items() if name != BACKGROUND}
    palette = np.array([(*_colour(int(v)), 128 * (int(v) in shown)) for v in found], np.uint8)
    overlay = Image.fromarray(palette[np.searchsorted(found, regions)], "RGBA")
    overlay = overlay.resize(image.size, Image.Resampling.NEAREST)
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")


def _name_regions(pen: ImageDraw.ImageDraw, example: Example, scale: float) -> None:
    """The name of each region on its pixel nearest to its middle; small ones and nothing have none."""
    regions = example.regions
    assert regions is not None
    for value, count in zip(*np.unique(regions, return_counts=True), strict=True):
        name = example.names.get(int(value))
        if name in (None, BACKGROUND) or count < NAMED * regions.size:
            continue
        rows, columns = np.nonzero(regions == value)
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        at = (columns[middle] * scale, rows[middle] * scale)
        size = (round(regions.shape[1] * scale), round(regions.shape[0] * scale))
        _tag(pen, size, at, name, _colour(int(value)))


def _pose(
    pen: ImageDraw.ImageDraw, pose: NDArray[Any], bones: Sequence[tuple[int, int]], scale: float, colour: Colour
) -> None:
    for start, end in bones:
        if pose[start, 2] > 0 and pose[end, 2] > 0:
            pen.line([tuple(scale * pose[k, :2]) for k in (start, end)], fill=colour, width=2)
    for x, y, labelled in pose:
        if labelled > 0:
            x, y = scale * x, scale * y
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline=PAPER)


def _depth(metres: NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Near is red and far is blue, on a logarithmic scale whose ends are written on it."""
    from matplotlib import colormaps

    known = metres > 0
    near, far = (metres[known].min(), metres[known].max()) if known.any() else (1.0, 1.0)
    share = np.log(np.clip(metres, near, far) / near) / max(np.log(far / near), 1e-9)
    colours = (colormaps["turbo"](1 - share)[..., :3] * 255).astype(np.uint8)
    colours[~known] = UNKNOWN
    if known.mean() < 0.5:  # points of a laser, of which few would be left
        colours = _thickened(colours, known)
    image = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    _tag(pen, size, (0, 0), f"{near:.2f} m", (122, 4, 3))
    _tag(pen, size, (size[0], 0), f"{far:.1f} m", (48, 18, 59))
    return image


def _thickened(colours: NDArray[Any], known: NDArray[Any]) -> NDArray[Any]:
    from scipy.ndimage import distance_transform_edt

    away, (rows, columns) = distance_transform_edt(~known, return_indices=True)
    near = colours[rows, columns]
    near[away > 3] = UNKNOWN
    return near


def _tag(pen: ImageDraw.ImageDraw, size: tuple[int, int], at: tuple[float, float], text: str, colour: Colour) -> None:
    """Write on a coloured label, kept inside the image."""
    font = _font(10, bold=True)
    width = font.getlength(text) + 4
    x = min(max(0.0, at[0]), max(0.0, size[0] - width))
    y = min(max(0.0, at[1]), size[1] - 13.0)
    pen.rectangle((x, y, x + width, y + 12), fill=colour)
    dark = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 140
    pen.text((x + 2, y), text, INK if dark else PAPER, font)


def _colour(number: int) -> Colour:
    """Far from that of its neighbours."""
    r, g, b = colorsys.hsv_to_rgb((0.02 + 0.382 * number) % 1.0, 0.75, 0.95)
    return int(255 * r), int(255 * g), int(255 * b)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf" / name, size)
