"""Load videos of one target in every benchmark's layout: frames, boxes, and where the target is absent.

    load("lasot", Path("lasot"), "test").sequences

Unusable data is left out and reported by name: single frames in training splits (TrackingNet's and GOT-10k's are
known for invalid boxes), whole sequences in test splits.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters.tracking.datasets import Listed, listed
from bench.datasets.dataset import Box, Example, Items
from bench.errors import UserError

logger = logging.getLogger(__name__)
IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
STILLS = {  # layouts of images with boxes: annotations and images of a split
    "coco": ("annotations/instances_{}2017.json", "{}2017"),
    "scenes-stills": ("annotations/instances_{}.json", "images/{}"),
}
Attribute = NDArray[np.bool_] | bool
SEEN = np.zeros(1, bool)
NO_BOX, NO_SIZE = "no_box", "a box of no size"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """A video with one target.

    Args:
        frames: its images, in order.
        size: their width and height in pixels.
        boxes: float64 (n, 4): x, y, width, height in pixels from the image's corner at 0; zeros where the target is
            absent. n is the number of frames, or 1 if only the first box is published.
        absent: bool (n,): where the target is not visible.
        attributes: of frames, bool (n,), or of the whole sequence.
    """

    name: str
    frames: tuple[Path, ...]
    size: tuple[int, int]
    boxes: NDArray[np.float64]
    absent: NDArray[np.bool_]
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Return whether predictions can be scored here: all boxes are published."""
        return len(self.boxes) == len(self.frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequences:
    """The usable sequences of a split, and for each unusable one by name, the reason.

    `source` has the arguments of `load`.
    """

    sequences: tuple[Sequence, ...]
    problems: Mapping[str, str]
    source: Mapping[str, str]


def load(layout: str, folder: Path, split: str) -> Sequences:
    """Read the boxes and labels of a split; of the images, only the size of each sequence's first one.

    The boxes of STILLS are sequences of one frame. Raises UserError for an unknown layout, a missing list, and if no
    sequence is usable; single unusable sequences are `problems`.
    """
    read_split = _stills if layout in STILLS else _videos
    found, problems = read_split(layout, folder, split)
    if not found:
        reasons = " ".join(list(problems.values())[:3])
        raise UserError(
            f"None of the {len(problems)} listed sequences of {folder} ({split}, {layout}) can be used. {reasons}"
        )
    source = {"layout": layout, "folder": str(folder.absolute()), "split": split}
    return Sequences(sequences=tuple(found), problems=problems, source=source)


def _videos(layout: str, folder: Path, split: str) -> tuple[list[Sequence], dict[str, str]]:
    found, problems = [], {}
    for one in listed(layout, folder, split):
        try:
            found.append(read(one, strict=split != "train"))
        except UserError as problem:
            problems[one.name] = str(problem)
    if some := [one for one in found if NO_BOX in one.attributes]:
        frames = sum(int(np.sum(one.attributes[NO_BOX])) for one in some)
        names = ", ".join(one.name for one in some[:5])
        logger.warning(
            f"{frames} frames of {len(some)} sequences of {folder} are not trained on: they have no box, or "
            f"one of no size or outside the image ({names})"
        )
    return found, problems


def _stills(layout: str, folder: Path, split: str) -> tuple[list[Sequence], dict[str, str]]:
    """Return every annotated box of a single object as a sequence; crowds are skipped."""
    annotations, pictures = (folder / path.format(split) for path in STILLS[layout])
    content = json.loads(annotations.read_bytes())
    images = {image["id"]: image for image in content["images"]}
    found, problems = [], {}
    for thing in (thing for thing in content["annotations"] if not thing["iscrowd"]):
        image, name = images[thing["image_id"]], f"annotation {thing['id']}"
        box = np.array([thing["bbox"]], np.float64)
        if not (box[0, 2:] > 0).all():
            problems[name] = f"The {name} is left out: its box {thing['bbox']} has no size."
            continue
        frames, size = (pictures / image["file_name"],), (image["width"], image["height"])
        found.append(Sequence(name=name, frames=frames, size=size, boxes=box, absent=SEEN))
    return found, problems


def read_frame(path: Path) -> NDArray[np.uint8]:
    """Decode a frame as RGB (H, W, 3); raises UserError if it cannot be decoded."""
    frame = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if frame is None:
        raise UserError(f"The frame {path} is missing or not an image. Restore it.")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read(one: Listed, *, strict: bool = True) -> Sequence:
    """Read one sequence; raises UserError that names it and what is wrong.

    Unless `strict`, a frame with an invalid box counts as one without the target, with the attribute "no_box".
    """
    table = _table(one, one.boxes)
    if table.shape[1] != 4:
        raise _problem(one, f"{one.boxes} has {table.shape[1]} numbers a line, x, y, w, h expected")
    frames = _frames(one, len(table))
    labels = {name: label.means(_table(one, label.file).ravel()) for name, label in one.labels.items()}
    lengths = {one.labels[name].file.name: len(values) for name, values in labels.items()}
    _check_lengths(one, len(frames), {one.boxes.name: len(table), **lengths})
    absent = np.zeros(len(table), bool)
    for name in one.absent:
        absent |= labels[name]
    size = _size(one, frames[0])
    boxes = table - np.array([one.base, one.base, 0, 0])
    wrong = _wrong(boxes, size)
    if one.unlabelled:
        absent |= wrong[NO_SIZE]
    wrong = {kind: found & ~absent for kind, found in wrong.items()}
    if strict:
        _refuse(one, wrong, absent)
    elif any(found.any() for found in wrong.values()):
        labels[NO_BOX] = np.any(list(wrong.values()), axis=0)
        absent |= labels[NO_BOX]
    if absent.all():
        raise _problem(one, "no frame has a box of its target")
    boxes[absent] = 0
    return Sequence(
        name=one.name, frames=frames, size=size, boxes=boxes, absent=absent, attributes={**labels, **_whole(one)}
    )


def _problem(one: Listed, what: str) -> UserError:
    return UserError(f"The sequence {one.name} is left out: {what}. Fix it, or remove it from the list of its split.")


def _table(one: Listed, file: Path) -> NDArray[np.float64]:
    """Read a table of numbers, one row a line, separated by commas, tabs, semicolons or spaces."""
    if not file.is_file():
        raise _problem(one, f"there is no {file}")
    lines = [line.strip() for line in file.read_text("utf-8", "replace").splitlines()]
    rows = [re.split(r"[,;\s]+", line.strip(",;")) for line in lines if line]
    if not rows:
        raise _problem(one, f"{file} has no numbers")
    try:
        return np.array(rows, np.float64)
    except ValueError:
        lengths = [len(row) for row in rows]
        odd = next((k for k, row in enumerate(rows) if not _numeric(row)), None)
        if odd is None:
            odd = next(k for k, length in enumerate(lengths) if length != lengths[0])
        raise _problem(one, f"line {odd + 1} of {file} is {lines[odd][:40]!r}, not like the others numbers") from None


def _numeric(words: list[str]) -> bool:
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


def _frames(one: Listed, boxes: int) -> tuple[Path, ...]:
    """Return the numbered images of a folder, in order; raises UserError for a missing number."""
    if not one.frames.is_dir():
        raise _problem(one, f"there is no folder of frames {one.frames}")
    files = (path for path in one.frames.iterdir() if path.suffix.lower() in IMAGES)
    numbered = {int(path.stem): path for path in files if path.stem.isdigit()}
    if one.part and len(numbered) != boxes:
        numbered = {k: path for k, path in numbered.items() if one.part[0] <= k <= one.part[1]}
    if not numbered:
        raise _problem(one, f"there are no numbered images in {one.frames}")
    missing = sorted(set(range(min(numbered), max(numbered))) - numbered.keys())
    if missing:
        raise _problem(one, f"of its frames, {len(missing)} are missing in {one.frames}: {_some(missing)}")
    return tuple(numbered[k] for k in sorted(numbered))


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def _check_lengths(one: Listed, frames: int, lengths: Mapping[str, int]) -> None:
    """Check for a box and a label for every frame, and at least two frames."""
    if frames < 2:
        raise _problem(one, f"it has {frames} frame, and tracking begins with the second")
    if one.first_only:
        if lengths[one.boxes.name] != 1:
            raise _problem(one, f"{one.boxes} has {lengths[one.boxes.name]} lines, one expected")
        return
    odd = {name: length for name, length in lengths.items() if length != frames}
    if odd:
        differ = " and ".join(f"{length} entries in {name}" for name, length in odd.items())
        raise _problem(one, f"it has {frames} frames, but {differ}")


def _size(one: Listed, first: Path) -> tuple[int, int]:
    try:
        with Image.open(first) as image:
            width, height = image.size
            return width, height
    except OSError as error:
        raise _problem(one, f"{first} is not an image ({error})") from None


def _wrong(boxes: NDArray[np.float64], size: tuple[int, int]) -> dict[str, NDArray[np.bool_]]:
    """Return which boxes are invalid, bool (n,), by what is wrong with them."""
    x, y, width, height = boxes.T
    return {
        "no number in its box": ~np.isfinite(boxes).all(1),
        NO_SIZE: ~((width > 0) & (height > 0)),
        f"a box outside the image of {size[0]}x{size[1]} pixels": (
            (x >= size[0]) | (y >= size[1]) | (x + width <= 0) | (y + height <= 0)
        ),
    }


def _refuse(one: Listed, wrong: Mapping[str, NDArray[np.bool_]], absent: NDArray[np.bool_]) -> None:
    """Raise UserError for an invalid box, and for a target that is absent in the first frame."""
    if absent[0]:
        raise _problem(one, "its target is absent in the first frame, which defines what to track")
    for kind, found in wrong.items():
        if found.any():
            where = f"line {_some((np.flatnonzero(found) + 1).tolist())} of {one.boxes}"
            raise _problem(one, f"{where} has {kind}, and no label says that the target is absent")


def _whole(one: Listed) -> dict[str, bool]:
    """Read the attributes of the whole sequence."""
    if one.attributes is None:
        return {}
    values = _table(one, one.attributes).ravel()
    if len(values) != len(one.columns):
        raise _problem(one, f"{one.attributes} has {len(values)} numbers, {len(one.columns)} expected")
    return dict(zip(one.columns, (values != 0).tolist(), strict=True))


SHOWN = 3  # frames of an example: the first, the last, and one in between


def items(folder: Path, split: str, layout: str) -> Items:
    """Return the usable sequences of a split for `python -m bench.datasets`, with a problem for each other one."""
    found = load(layout, folder, split)
    unit = "boxes" if layout == "coco" else "sequences"
    problems = tuple(found.problems.values())
    return Items(count=len(found.sequences), read=lambda k: _example(found.sequences[k]), unit=unit, problems=problems)


def _example(sequence: Sequence) -> Example:
    """Return some frames side by side, with their boxes."""
    count = len(sequence.frames)
    chosen = sorted({round(k) for k in np.linspace(0, count - 1, SHOWN)})
    frames = [Image.fromarray(read_frame(sequence.frames[k])) for k in chosen]
    sheet = Image.new("RGB", (sum(frame.width for frame in frames), frames[0].height))
    boxes: list[tuple[str, Box]] = []
    left = 0
    for k, frame in zip(chosen, frames, strict=True):
        sheet.paste(frame, (left, 0))
        if k < len(sequence.boxes) and not sequence.absent[k]:
            x, y, width, height = sequence.boxes[k].tolist()
            boxes.append((f"frame {k + 1}", (left + x, y, width, height)))
        left += frame.width
    caption = f"{sequence.name}, {count} frames"
    return Example(image=sheet, caption=caption, boxes=boxes, frames=len(chosen))
