"""Image folders: `<split>/<class>/*.png`, and what a model sees of them.

The official tiny-imagenet-200 keeps its val images in one folder and their classes in a list; both
layouts are read.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.backbones import Backbone
from bench.errors import UserError
from bench.images import as_rgb
from bench.normalisation import normalisation
from bench.results import digest, write_atomic
from bench.tars import Member, Packed

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
EVAL_VERSION = 1  # raised when `eval_transform` shows a model anything else
ANNOTATIONS = "val_annotations.txt"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The images of one split in a fixed order.

    Args:
        paths: of the images; or their places within tar files; or their pixels, uint8 [n, h, w, 3].
        labels: [n], or of images of several classes [n, k], as `Listed` has them.
        classes: names by label.
        held_out: bool [n], which images of train are the official validation split; None: it has none.
    """

    paths: Sequence[Path] | Packed | NDArray[np.uint8]
    labels: Sequence[int] | NDArray[Any]
    classes: Sequence[str]
    held_out: NDArray[np.bool_] | None = None


class Images:
    """A split as (image [3, h, w], label); raises UserError that names an image it cannot read."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], "Tensor"]) -> None:
        """Keep the split and its transform; nothing is read yet."""
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.split.paths)

    def __getitem__(self, index: int) -> tuple["Tensor", Any]:
        """Read one image."""
        return self.transform(read(self.split.paths[index])), self.split.labels[index]


def read(path: Path | Member | NDArray[np.uint8]) -> Image.Image:
    """Decode an image as RGB, or take its pixels; raises UserError that names the file."""
    if isinstance(path, np.ndarray):
        return Image.fromarray(path)
    try:
        with Image.open(path if isinstance(path, Path) else io.BytesIO(path.read())) as image:
            rgb: Image.Image = as_rgb(image)
            return rgb
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None


def open_whole(path: Path) -> Image.Image:
    """Decode all of an image, unconverted (a truncated file has a whole header); raises UserError."""
    try:
        with contextlib.closing(Image.open(path)) as file:
            file.load()
            return file.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path | Member, error: Exception) -> UserError:
    """Say which image cannot be read, and what to do."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(path, Member):
        return UserError(
            f"The image in {path} ({path.size:,} bytes) cannot be read: {reason}. The tar was damaged since it was "
            f"written; delete it and its entry in the manifest beside it, and prepare the data set again."
        )
    size = path.stat().st_size if path.is_file() else 0
    return UserError(
        f"The image {path} ({size:,} bytes) cannot be read: {reason}. It is truncated, damaged or no image; "
        f"restore or remove it, and run again."
    )


@contextlib.contextmanager
def checked_once(cache: Path, kind: str, files: Iterable[Path], *settings: Any) -> Iterator[bool]:
    """Remember that files were found good: yields whether they must be read again.

        with checked_once(cache, "masks", files, num_classes) as unread:
            if unread:
                ...  # raise UserError for a bad file

    Files are the same while their paths, sizes and times are.
    """
    stats = [(str(p), s.st_size, s.st_mtime_ns) for p in files for s in [p.stat()]]
    memory = cache / f"checked-{kind}" / digest([stats, *settings])
    yield not memory.is_file()
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(memory, f"{len(stats)} files\n")


def splits(root: Path, *, limit: int | None = None) -> tuple[Split, Split]:
    """Read the train and val splits below `root`; `limit` keeps the first images of every class.

    Raises UserError for an empty or missing class, or where the splits' classes differ.
    """
    found = {split: _by_class(root, split) for split in ("train", "val")}
    for split, classes in found.items():
        _check(root / split, classes)
    check_same(str(root), set(found["train"]), set(found["val"]), "val")
    train, val = (_limited(classes, limit) for classes in found.values())
    return train, val


def split_of(root: Path, split: str) -> Split:
    """Read one of the splits that `splits` reads, by itself; raises UserError as that does."""
    classes = _by_class(root, split)
    _check(root / split, classes)
    return _limited(classes, None)


def _by_class(root: Path, split: str) -> dict[str, list[Path]]:
    """The images of every class, sorted; a class is a folder, or named by the list of annotations."""
    folder = root / split
    if (folder / ANNOTATIONS).is_file():
        return _annotated(folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}. Expected are {root}/train and {root}/val, with one folder of "
            f"images for each class in both."
        )
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return {c.name: sorted(p for p in c.rglob("*") if _is_image(p)) for c in classes}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _annotated(folder: Path) -> dict[str, list[Path]]:
    """The official val split: lines `file<TAB>class<TAB>box`, images in `images/`."""
    found: dict[str, list[Path]] = {}
    for number, line in enumerate((folder / ANNOTATIONS).read_text().splitlines(), 1):
        name, _, rest = line.partition("\t")
        path = folder / "images" / name
        if not rest or not path.is_file():
            raise UserError(
                f"Line {number} of {folder / ANNOTATIONS}, {line[:60]!r}, names no image: expected is an image's "
                f"file name, a tab and its class, and that image in {folder / 'images'}. Restore the data set."
            )
        found.setdefault(rest.split("\t")[0], []).append(path)
    return {name: sorted(found[name]) for name in sorted(found)}


def _check(folder: Path, classes: Mapping[str, Sequence[Path]]) -> None:
    if len(classes) < 2:
        raise UserError(
            f"{folder} holds {len(classes)} class folder(s) where at least 2 are needed. Expected is one "
            f"folder for each class, with its images inside."
        )
    if empty := [name for name, paths in classes.items() if not paths]:
        raise UserError(
            f"{len(empty)} class folder(s) without an image: {_some(folder / name for name in empty)}. "
            f"Add images ({', '.join(sorted(SUFFIXES))}) or remove the folder from both splits."
        )


def check_same(root: str, train: set[str], val: set[str], name: str) -> None:
    """Raise UserError where the classes of train and of the split `name` differ."""
    if train == val:
        return
    only = [
        f"only in {split}: {_some(sorted(names))}"
        for split, names in (("train", train - val), (name, val - train))
        if names
    ]
    raise UserError(
        f"The classes of {root}/train ({len(train)}) and {root}/{name} ({len(val)}) differ; {'; '.join(only)}. "
        f"Every class needs images under the same name in both; rename or remove those."
    )


def _some(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _limited(classes: Mapping[str, Sequence[Path]], limit: int | None) -> Split:
    """Take every class's first image, then every class's second, ... until there are `limit`."""
    ranked = [
        (rank, label, path)
        for label, paths in enumerate(classes.values())
        for rank, path in enumerate(paths)
    ]
    kept = sorted(sorted(ranked)[:limit], key=lambda item: item[1:])
    return Split(
        paths=[path for *_, path in kept],
        labels=[label for _, label, _ in kept],
        classes=list(classes),
    )


def eval_transform(
    backbone: Backbone, *, img_size: int, crop_pct: float
) -> Callable[[Image.Image], "Tensor"]:
    """Resize the short side to img_size / crop_pct (bicubic), crop the centre, normalise: timm's own."""
    import timm.data

    mean, std = normalisation(backbone)
    transform: Callable[[Image.Image], Tensor] = timm.data.create_transform(
        (3, img_size, img_size),
        interpolation="bicubic",
        crop_pct=crop_pct,
        mean=mean,
        std=std,
    )
    return transform


def size_argument(arch: str, img_size: int) -> dict[str, Any]:
    """What `timm.create_model` needs to take images of img_size: nothing, if any size will do.

    Raises UserError where img_size is no multiple of a ViT's patches.
    """
    import timm

    if not timm.get_pretrained_cfg(arch).fixed_input_size:
        return {}
    patch = re.search(r"_patch(\d+)", arch)
    if patch and img_size % int(patch[1]):
        step = int(patch[1])
        raise UserError(
            f"{arch} takes images whose side is a multiple of {step} pixels, and the protocol has img_size="
            f"{img_size}. Define a protocol with img_size={img_size // step * step} or {-(-img_size // step) * step}."
        )
    return {"img_size": img_size}
