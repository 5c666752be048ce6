"""The cache of frozen features: memory-mapped arrays with their checksums, and a limit to their size.

An entry is one array [images, width]: `<hash of its key>.npy`, numpy's own format, and beside it a
`.json` with the key, the file's SHA-256, its own digest and how fast it was made. The array is written row by row into
a `.part` file, which is synced and renamed, then the `.json` is; so an entry without a `.json` was cut
short. Each opening reads the file once and compares its SHA-256 (some 1.8 GB a second, a hundredth of
the time that the features took), so a byte that was flipped, whenever and by whom, is never used.

Who writes a file, or has it mapped, holds a lock on that file itself, which ends with the process or the
map: two processes make an entry once, and none that is in use is deleted.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from io import BytesIO, FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.errors import UserError
from bench.results import digest, write_atomic

log = logging.getLogger(__name__)

# By whether the entry is described, and whether nobody holds it.
STATES = {
    (True, True): "whole",
    (True, False): "in use",
    (False, True): "half-written",
    (False, False): "being made",
}
NPY: Any = np.lib.format  # untyped

Key = Mapping[str, Any]
File = IO[bytes] | FileIO


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """An entry in use, for as long as the array lives.

    Args:
        array: float32 [images, width], mapped; what is written to it stays in memory.
        about: what its `.json` says.
    """

    array: "np.ndarray[Any, Any]"
    about: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the cache, without having read it.

    Args:
        about: what its `.json` says; {} where there is none to be read.
        last_used: seconds since the epoch; the file's modification time, as nothing else modifies it.
        state: "whole", "in use", "being made" or "half-written"; contents are read by `open` only.
    """

    path: Path
    about: Mapping[str, Any]
    size: int
    last_used: float
    state: str


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """A folder of entries, which take `limit` bytes together at most, but for those in use."""

    folder: Path
    limit: float

    def path(self, key: Key) -> Path:
        """Where the entry of `key` lies, or would."""
        return self.folder / f"{digest(key)[:32]}.npy"

    def open(self, key: Key) -> Held | None:
        """Read the entry of `key` through and map it; None, and a warning, unless it is whole."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                about = _about(path)
                _check(file, about, key)
                array = _map(file)
        except (OSError, ValueError) as error:
            log.warning("The features in %s are made again: %s.", path, error)
            return None
        with contextlib.suppress(PermissionError):  # a cache that others fill, read-only here
            os.utime(path)  # the time of last use
        return Held(array=array, about=about)

    @contextlib.contextmanager
    def writer(self, key: Key, rows: int) -> Iterator["Writer"]:
        """Hold the right to make the entry of `key`; waits while another process does.

        So look for the entry again inside. Leaves nothing behind unless `Writer.finish` was called.
        """
        part = self.path(key).with_suffix(".part")
        with _saying(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = _locked(part)
        with file:
            try:
                yield Writer(cache=self, key=key, part=part, file=file, rows=rows)
            finally:
                if _same(part, file):
                    part.unlink()

    def entries(self) -> list[Entry]:
        """All that the cache holds, least recently used first."""
        found = [_entry(p) for p in self.folder.glob("*") if p.suffix in (".npy", ".part")]
        return sorted((e for e in found if e is not None), key=lambda entry: entry.last_used)

    def trim(self, size: float) -> list[Entry]:
        """Delete the least recently used entries, and none in use, until the rest take `size` bytes at most.

        What a killed process left half-written is deleted in any case. Returns what was deleted.
        """
        entries, deleted = self.entries(), []
        total = sum(entry.size for entry in entries)
        for entry in sorted(entries, key=lambda entry: entry.state != "half-written"):
            if (total > size or entry.state == "half-written") and _delete(entry.path):
                total -= entry.size
                deleted.append(entry)
        return deleted


@dataclasses.dataclass(kw_only=True)
class Writer:
    """Writes one entry in rows, as they come, to a locked, empty file; see `FeatureCache.writer`."""

    cache: FeatureCache
    key: Key
    part: Path
    file: FileIO
    rows: int
    written: int = 0
    sha256: Any = dataclasses.field(default_factory=hashlib.sha256)

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows, float32 [b, d]."""
        if not self.written:
            self._put(_header((self.rows, rows.shape[1])))
        self._put(np.ascontiguousarray(rows, "<f4").data.cast("B"))
        self.written += len(rows)

    def _put(self, data: "bytes | memoryview[int]") -> None:
        self.sha256.update(data)
        with _saying(self.part.parent):
            while data:
                data = data[self.file.write(data) :]

    def finish(self, about: Mapping[str, Any]) -> Held:
        """Keep the entry, with `about` in its `.json`, make room for it, and map it.

        One that is larger than the cache's limit is not kept: the file goes when the map does.
        """
        assert self.written == self.rows, f"{self.written} of {self.rows} rows were written"
        about = {"key": self.key, "sha256": self.sha256.hexdigest(), "rows": self.rows, **about}
        with _saying(self.part.parent):
            os.fsync(self.file.fileno())
            if (size := self.file.tell()) <= self.cache.limit:
                self._rename(about)
                self.cache.trim(self.cache.limit)
            else:
                why = "These features (%.3g GB) are not kept: the cache is limited to %.3g GB."
                log.warning(why, size / 1e9, self.cache.limit / 1e9)
                self.part.unlink()
        fcntl.flock(self.file, fcntl.LOCK_SH)
        return Held(array=_map(self.file), about=about)

    def _rename(self, about: Mapping[str, Any]) -> None:
        path = self.part.with_suffix(".npy")
        _beside(path).unlink(missing_ok=True)  # never a new array with an old description
        self.part.replace(path)
        described = {**about, "digest": digest(about)}
        write_atomic(_beside(path), json.dumps(described, indent=1) + "\n")


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _check(file: File, about: Mapping[str, Any], key: Key) -> None:
    """Read the file through; raises ValueError unless it is what was written for `key`."""
    if not about:
        raise ValueError("they are half-written")
    if about["key"] != json.loads(json.dumps(key)):
        raise ValueError("they are of something else")
    value = hashlib.sha256()
    while block := file.read(1 << 20):
        value.update(block)
    if value.hexdigest() != about["sha256"]:
        raise ValueError("their contents are not what was written")


def _header(shape: tuple[int, int]) -> bytes:
    """How a `.npy` file of float32 begins."""
    header = BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    NPY.write_array_header_1_0(header, about)
    return header.getvalue()


def _map(file: File) -> np.ndarray:
    """Map an open `.npy` file, copy on write. The map keeps the file open, and so its lock held."""
    file.seek(0)
    NPY.read_magic(file)
    shape, _, dtype = NPY.read_array_header_1_0(file)
    return np.memmap(file, dtype, mode="c", offset=file.tell(), shape=shape)


@contextlib.contextmanager
def _saying(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one paragraph."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The features cannot be kept in {folder} ({error.strerror}). No half file was left. Free some space, "
            f"or name another folder with BENCH_CACHE, and run again."
        ) from None


def _locked(part: Path) -> FileIO:
    """Open `part`, made where it is not, empty and as the only process that does."""
    while True:
        # Unbuffered, so that a full disk is met where it is written to, and not again on closing.
        file = FileIO(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        if not _lock_at_once(file):
            log.warning("Waiting for another process, which makes the same features.")
            fcntl.flock(file, fcntl.LOCK_EX)
        if _same(part, file):
            file.truncate(0)
            return file
        file.close()  # renamed or deleted while we waited


def _lock_at_once(file: File) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(path: Path, file: File) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _entry(path: Path) -> Entry | None:
    """Look at a file of the cache; None if it has just been deleted."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        free, found, about = _lock_at_once(file), os.fstat(file.fileno()), _about(path)
        return Entry(
            path=path,
            about=about,
            size=found.st_size,
            last_used=found.st_mtime,
            state=STATES[bool(about), free],
        )
    return None


def _about(path: Path) -> Mapping[str, Any]:
    """The `.json` of an entry; {} where it is not, or not as it was written."""
    try:
        about = json.loads(_beside(path).read_text("utf-8"))
        return about if about.pop("digest") == digest(about) else {}
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _delete(entry: Path) -> bool:
    """Delete an entry unless it is in use; says whether it is gone."""
    try:
        with entry.open("rb") as file:
            if not _lock_at_once(file):
                return False
            if entry.suffix == ".npy":
                _beside(entry).unlink(missing_ok=True)
            entry.unlink(missing_ok=True)
    except FileNotFoundError:
        pass  # another process was quicker
    return True
