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

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in SUFFIXES  # noqa: PTH122


def as_rgb(image: Image.Image) -> Image.Image:
    """Decode as 8-bit RGB; transparency is left out, as in evaluation, and 16 bits become 8.

    Raises:
        ValueError: the image has floating-point pixels, of which no one knows the range.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """An image within a tar: where it begins and how long it is, in bytes."""

    tar: Path
    begin: int
    size: int

    def read(self) -> bytes:
        """The image's file; raises OSError where the tar ends before it."""
        content = os.pread(_opened(str(self.tar)).fileno(), self.size, self.begin)
        if len(content) < self.size:
            raise OSError(f"{self.tar.name} ends within it")
        return content

    def __str__(self) -> str:
        """The tar and the byte where the image begins."""
        return f"{self.tar} at byte {self.begin}"


@functools.lru_cache(maxsize=256)  # as many as a process may well have open
def _opened(path: str) -> BinaryIO:
    return Path(path).open("rb", buffering=0)


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
