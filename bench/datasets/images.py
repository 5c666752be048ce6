"""Read images: any mode as 8-bit RGB, with errors that name the file."""

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.errors import UserError
from bench.files import digest, write_atomic

DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a bad file
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in SUFFIXES  # noqa: PTH122


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: no transparency, 16 bits scaled to 8; raises ValueError for floats, of unknown range."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """An image within a tar: its first byte and its length."""

    tar: Path
    begin: int
    size: int

    def read(self) -> bytes:
        """Return the image's encoded bytes; raises OSError if the tar ends before it."""
        content = os.pread(_opened(str(self.tar)).fileno(), self.size, self.begin)
        if len(content) < self.size:
            raise OSError(f"{self.tar.name} ends within it")
        return content

    def __str__(self) -> str:
        """Return the tar and the image's first byte, for messages."""
        return f"{self.tar} at byte {self.begin}"


@functools.lru_cache(maxsize=256)  # well below the usual limit of 1024 open files
def _opened(path: str) -> BinaryIO:
    return Path(path).open("rb", buffering=0)


def read(path: Path | Member | NDArray[np.uint8]) -> Image.Image:
    """Decode an image as RGB, or wrap an array's pixels; raises UserError with the file's name."""
    if isinstance(path, np.ndarray):
        return Image.fromarray(path)
    try:
        with Image.open(path if isinstance(path, Path) else io.BytesIO(path.read())) as image:
            rgb: Image.Image = as_rgb(image)
            return rgb
    except DAMAGED as error:
        raise unreadable(path, error) from None


def open_whole(path: Path) -> Image.Image:
    """Decode all pixels of an image without converting them; raises UserError, also for a truncated file."""
    try:
        with contextlib.closing(Image.open(path)) as file:
            file.load()
            return file.copy()
    except DAMAGED as error:
        raise unreadable(path, error) from None


def unreadable(path: Path | Member, error: Exception) -> UserError:
    """Return the error of an image that cannot be read, with what to do."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(path, Member):
        return UserError(
            f"The image in {path} ({path.size:,} bytes) cannot be read: {reason}. The tar was damaged since it was "
            f"written; delete it and its entry in the manifest next to it, and prepare the data set again."
        )
    size = path.stat().st_size if path.is_file() else 0
    return UserError(
        f"The image {path} ({size:,} bytes) cannot be read: {reason}. It is truncated, damaged or not an image; "
        f"restore or remove it, and run again."
    )


@contextlib.contextmanager
def checked_once(cache: Path, kind: str, files: Iterable[Path], *settings: Any) -> Iterator[bool]:
    """Yield whether files must be checked; if the block raises nothing, the next call yields False.

        with checked_once(cache, "masks", files, num_classes) as unread:
            if unread:
                ...  # raise UserError for a bad file

    Files are checked again when their paths, sizes, modification times or the settings change.
    """
    stats = [(str(p), s.st_size, s.st_mtime_ns) for p in files for s in [p.stat()]]
    mark = cache / f"checked-{kind}" / digest([stats, *settings])
    yield not mark.is_file()
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(mark, f"{len(stats)} files\n")
