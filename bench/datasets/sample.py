"""Draw a few items of every split with their labels, as one PNG.

python -m bench.datasets sample NAME
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from bench.datasets import drawing
from bench.datasets.catalogue import Entry, missing
from bench.datasets.check import places
from bench.datasets.items import Example
from bench.errors import UserError
from bench.tasks import Task

COLUMNS = 4
TILE = 300  # pixels, height of an image in the picture
WIDEST = 2 * TILE
BACKGROUND = "background"  # a class of Pascal VOC; painted, it would hide most of the image


def sample(entries: Sequence[Entry], data_root: Path | None, path: Path) -> None:
    """Write the picture; raises UserError if no split is at the data root or an item cannot be read."""
    rows: list[drawing.Row] = []
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
    drawing.page(rows).save(path)


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
        image = drawing.draw_regions(image, example.regions, names)
    pen = ImageDraw.Draw(image)
    for number, corners in example.outlines:
        pen.polygon([scale * value for value in corners], outline=drawing.colour(number))
    boxes = [(scale * x, scale * y, scale * w, scale * h) for _, (x, y, w, h) in example.boxes]
    colours = [drawing.colour(number) for number in range(len(boxes))]
    image = drawing.draw_boxes(image, boxes, colours, [name for name, _ in example.boxes])
    for number, pose in enumerate(example.poses):
        drawing.draw_pose(image, pose * (scale, scale, 1), example.bones, drawing.colour(number))
    if example.depth is not None:
        image = _joined(image, drawing.depth_map(example.depth, image.size))
    return drawing.captioned(image, example.caption)


def _joined(image: Image.Image, other: Image.Image) -> Image.Image:
    """Return two images of one size next to each other; wide ones (of a street) below each other."""
    width, height = image.size
    flat = width > 2 * height
    whole = Image.new("RGB", (width, 2 * height) if flat else (2 * width, height))
    whole.paste(image)
    whole.paste(other, (0, height) if flat else (width, 0))
    return whole
