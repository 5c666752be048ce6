"""Draw labels on images (boxes, regions, poses, depth), lay tiles out as a page, and draw a sample of a data set.

Boxes and masks are drawn by torchvision. Names are not: torchvision's are cut off at the image's edge. Neither are
poses: its keypoints have one colour, without an outline that shows on any background.
"""

import colorsys
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from bench.datasets.catalogue import Entry, missing
from bench.datasets.check import places
from bench.datasets.dataset import Box, Example
from bench.errors import UserError
from bench.tasks import Task

Array: TypeAlias = NDArray[Any]
Colour: TypeAlias = tuple[int, int, int]
Colours: TypeAlias = Mapping[int, Colour]  # by label or value

INK, FAINT, PAPER = (28, 30, 38), (105, 110, 122), (255, 255, 255)
NEAR, FAR = (122, 4, 3), (48, 18, 59)  # the two ends of matplotlib's turbo
UNKNOWN = 60  # grey of pixels without depth
GAP, LINE, HEADING = 10, 18, 26  # pixels between tiles, of a caption, of a heading
NAMED = 0.005  # smallest share of the image that a region must cover to be named


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf" / name, size)


def colour(number: int) -> Colour:
    """Return the colour of a thing or class; consecutive numbers get very different hues."""
    r, g, b = colorsys.hsv_to_rgb((0.02 + 0.382 * number) % 1.0, 0.75, 0.95)
    return int(255 * r), int(255 * g), int(255 * b)


def tag(image: Image.Image, at: tuple[float, float], text: str, fill: Colour, *, centred: bool = False) -> None:
    """Write text on a coloured label inside the image, its upper left corner (or its centre) near `at`."""
    pen, letters = ImageDraw.Draw(image), font(10, bold=True)
    width, height = letters.getlength(text) + 4, 12
    left, top = (at[0] - width / 2, at[1] - height / 2) if centred else at
    x = min(max(0.0, left), max(0.0, image.width - width))
    y = min(max(0.0, top), image.height - height - 1.0)
    pen.rectangle((x, y, x + width, y + height), fill=fill)
    bright = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] > 140  # luma
    pen.text((x + 2, y), text, INK if bright else PAPER, letters)


def draw_boxes(
    image: Image.Image, boxes: Sequence[Box], colours: Sequence[Colour], names: Sequence[str] = (), width: int = 2
) -> Image.Image:
    """Return the image with boxes and, inside their upper left corners, their names."""
    if not boxes:
        return image
    corners = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes])
    drawn = to_pil_image(draw_bounding_boxes(pil_to_tensor(image), corners, colors=list(colours), width=width))
    for name, (x, y, *_), fill in zip(names, boxes, colours, strict=False):
        tag(drawn, (x, y), name, fill)
    return drawn


def draw_masks(image: Image.Image, masks: Array, colours: Sequence[Colour], alpha: float = 0.5) -> Image.Image:
    """Return the image with masks [n, height, width], scaled to its size, in their colours."""
    if not len(masks):
        return image
    scaled = [Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST) for mask in masks]
    flags = torch.from_numpy(np.stack([np.asarray(mask) for mask in scaled]))
    return to_pil_image(draw_segmentation_masks(pil_to_tensor(image), flags, alpha, list(colours)))


def draw_regions(
    image: Image.Image, regions: Array, names: Mapping[int, str], colours: Colours | None = None, alpha: float = 0.5
) -> Image.Image:
    """Return the image with the regions [height, width] whose values have a name; all but small ones are named."""
    values = [int(value) for value in np.unique(regions) if int(value) in names]
    fills = [colours[value] if colours else colour(value) for value in values]
    drawn = draw_masks(image, np.stack([regions == value for value in values] or [[]]), fills, alpha)
    scale = image.width / regions.shape[1], image.height / regions.shape[0]
    for value, fill in zip(values, fills, strict=True):
        rows, columns = np.nonzero(regions == value)
        if len(rows) < NAMED * regions.size:
            continue
        # The region's pixel nearest to its centre of mass, which itself may lie outside the region.
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        tag(drawn, (columns[middle] * scale[0], rows[middle] * scale[1]), names[value], fill, centred=True)
    return drawn


def draw_pose(
    image: Image.Image, pose: Array, bones: Sequence[tuple[int, int]], bone: Colour, joints: Colours | None = None
) -> None:
    """Draw a pose's labelled points (x, y, label above 0) and bones; `joints`: colours by label, `bone` when None."""
    pen = ImageDraw.Draw(image)
    for start, end in bones:
        if pose[start, 2] > 0 and pose[end, 2] > 0:
            pen.line([tuple(pose[k, :2]) for k in (start, end)], fill=bone, width=2)
    for x, y, label in pose:
        if label > 0:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=joints[int(label)] if joints else bone, outline=PAPER)


def depth_map(metres: Array, size: tuple[int, int], limit: float = float("inf"), unknown: int = UNKNOWN) -> Image.Image:
    """Return depth as colours from red (near) to blue (far) on a logarithmic scale, with the two ends in metres.

    Args:
        metres: 0 where the depth is not known.
        limit: depths beyond it have the colour of the limit.
        unknown: grey of pixels without depth.
    """
    from matplotlib import colormaps

    known = metres > 0
    near, far = (metres[known].min(), min(limit, metres[known].max())) if known.any() else (1.0, 1.0)
    share = np.log(np.clip(metres, near, far) / near) / max(np.log(far / near), 1e-9)
    colours = (colormaps["turbo"](1 - share)[..., :3] * 255).astype(np.uint8)
    colours[~known] = unknown
    if known.mean() < 0.5:  # single points of a laser scanner would hardly show when the map is scaled down
        colours = _thickened(colours, known, unknown)
    image = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    tag(image, (0, 0), f"{near:.2f} m", NEAR)
    tag(image, (size[0], 0), f"{far:.1f} m{' and beyond' if far == limit else ''}", FAR)
    return image


def _thickened(colours: Array, known: Array, unknown: int) -> Array:
    from scipy.ndimage import distance_transform_edt

    away, (rows, columns) = distance_transform_edt(~known, return_indices=True)
    near = colours[rows, columns]
    near[away > 3] = unknown
    return near


def captioned(image: Image.Image, caption: str) -> Image.Image:
    """Return the image with a caption below, shortened to the image's width."""
    whole = Image.new("RGB", (image.width, image.height + LINE), PAPER)
    whole.paste(image)
    letters, shown = font(11), caption
    while letters.getlength(shown) > image.width and len(shown) > 4:
        shown = f"{shown[:-4]}..."
    ImageDraw.Draw(whole).text((0, image.height + 2), shown, INK, letters)
    return whole


Row: TypeAlias = tuple[str, str, Sequence[Image.Image]]  # heading, a note behind it, tiles


def page(rows: Sequence[Row]) -> Image.Image:
    """Return rows of tiles on white, each under its heading if it has one."""
    width = max(sum(tile.width + GAP for tile in tiles) for *_, tiles in rows) + GAP
    height = sum(HEADING * bool(heading) + GAP + max(t.height for t in tiles) for heading, _, tiles in rows) + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, y = ImageDraw.Draw(sheet), GAP
    for heading, note, tiles in rows:
        if heading:
            pen.text((GAP, y), heading, INK, font(15, bold=True))
            pen.text((2 * GAP + font(15, bold=True).getlength(heading), y + 2), note, FAINT, font(13))
            y += HEADING
        x = GAP
        for tile in tiles:
            sheet.paste(tile, (x, y))
            x += tile.width + GAP
        y += max(tile.height for tile in tiles) + GAP
    return sheet


# A few items of every split with their labels, as one PNG: python -m bench.datasets sample NAME

COLUMNS = 4
TILE = 300  # pixels, height of an image in the picture
WIDEST = 2 * TILE
BACKGROUND = "background"  # a class of Pascal VOC; painted, it would hide most of the image


def sample(entries: Sequence[Entry], data_root: Path | None, path: Path) -> None:
    """Write the picture; raises UserError if no split is at the data root or an item cannot be read."""
    rows: list[Row] = []
    problem: UserError | None = None
    for entry in entries:
        for split in entry.dataset.splits:
            if absent := missing(entry.dataset, split, data_root):
                problem = problem or absent
                continue
            folder = entry.dataset.only([split]).locate(data_root)
            tiles = {task.name: _tiles(task, folder, split) for task in entry.readers}
            rows += [(f"{name}: {split}", "", found) for name, found in tiles.items() if found]
    if not rows:
        raise problem or UserError(f"{entries[0].names} has no images that can be drawn.")
    page(rows).save(path)


def _tiles(task: Task, folder: Path, split: str) -> list[Image.Image]:
    items = task.items(folder, split) if task.items else None
    return [tile(items.read(k)) for k in places(items.count, COLUMNS)] if items else []


def tile(example: Example) -> Image.Image:
    """Return an example at the size of the picture's tiles, with its labels and its caption."""
    width, height = example.image.size
    scale = min(TILE / height, WIDEST / width)
    image = example.image.resize((max(1, round(width * scale)), max(1, round(height * scale))))
    if example.regions is not None:
        names = {value: name for value, name in example.names.items() if name != BACKGROUND}
        image = draw_regions(image, example.regions, names)
    pen = ImageDraw.Draw(image)
    for number, corners in example.outlines:
        pen.polygon([scale * value for value in corners], outline=colour(number))
    boxes = [(scale * x, scale * y, scale * w, scale * h) for _, (x, y, w, h) in example.boxes]
    colours = [colour(number) for number in range(len(boxes))]
    image = draw_boxes(image, boxes, colours, [name for name, _ in example.boxes])
    for number, pose in enumerate(example.poses):
        draw_pose(image, pose * (scale, scale, 1), example.bones, colour(number))
    if example.depth is not None:
        image = _joined(image, depth_map(example.depth, image.size))
    return captioned(image, example.caption)


def _joined(image: Image.Image, other: Image.Image) -> Image.Image:
    """Return two images of one size next to each other; wide ones (of a street) below each other."""
    below = image.width > 2 * image.height
    return Image.fromarray(np.concatenate([np.asarray(image), np.asarray(other)], axis=0 if below else 1))
