"""Frozen features: extracted once, cached on disk, shared by every frozen protocol.

    python -m bench.features            # list the cache
    python -m bench.features --clear

The cache contains vectors of images without augmentation, as the model outputs them; classification's linear head
and nearest neighbours both read them. Frozen segmentation, detection, pose and depth do not use it: they train on
random crops and whole maps.

An entry is one array [images, width] in a `.npy` file named after the hash of its key, and a `.json` sidecar with the
key, the array file's SHA-256, extraction speed and its own digest. The key covers everything that determines the
features, so an entry never becomes stale. Rows are appended to a `.part` file, which is synced and renamed before the
sidecar is written: an array without a sidecar is incomplete. Opening an entry compares its SHA-256 (about 1.8 GB/s, a
hundredth of the extraction time), so a corrupted file is never used.

Writers and readers lock the array file itself until they exit or drop the map: two processes never extract the same
entry, and an entry in use is never deleted.
"""

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import functools
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO, FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench import environment
from bench.errors import UserError
from bench.files import cache_dir, digest, write_atomic
from bench.processes import worker_ends_with_run

log = logging.getLogger(__name__)

VERSION = 2  # increased when the same key leads to other features, also by a change to how models are built
BATCH_SIZE = 64
FOLDER = "features"  # in the cache folder
LIMIT = "BENCH_CACHE_LIMIT"
DEFAULT_LIMIT = "20"  # GB
POOLED = "pooled"
# (has a sidecar, is unlocked) -> state.
STATES = {(True, True): "whole", (True, False): "in use", (False, True): "half-written", (False, False): "being made"}
NPY: Any = np.lib.format  # untyped

Layer = str | int
Key = Mapping[str, Any]
File = IO[bytes] | FileIO


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedArray:
    """An open entry, locked against deletion while the array exists.

    Args:
        array: float32 [images, width], memory-mapped copy-on-write.
        about: the content of its sidecar.
    """

    array: "np.ndarray[Any, Any]"
    about: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of the cache, described without reading its array.

    Args:
        about: the content of its sidecar; {} if that is missing or invalid.
        last_used: the file's modification time in seconds since the epoch; opening an entry updates it.
        state: "whole", "in use", "being made" or "half-written". "whole" is not checked against the SHA-256.
    """

    path: Path
    about: Mapping[str, Any]
    size: int
    last_used: float
    state: str


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """A folder of entries of at most `limit` bytes in total; entries in use are never deleted and may exceed it."""

    folder: Path
    limit: float

    def path(self, key: Key) -> Path:
        """Return the path of the array of `key`, whether it exists or not."""
        return self.folder / f"{digest(key)[:32]}.npy"

    def open(self, key: Key) -> CachedArray | None:
        """Verify and map the entry of `key`; None if it is missing or, with a warning, if it is damaged."""
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
            log.warning("The features in %s will be extracted again: %s.", path, error)
            return None
        with contextlib.suppress(PermissionError):  # a read-only cache, filled by another user
            os.utime(path)  # time of last use
        return CachedArray(array=array, about=about)

    @contextlib.contextmanager
    def writer(self, key: Key, rows: int) -> Iterator["Writer"]:
        """Lock the entry of `key` for writing; wait while another process writes it.

        After the wait the entry may exist, so call `open` again inside. Without `Writer.finish`, no file remains.
        """
        part = self.path(key).with_suffix(".part")
        with _write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = _locked(part)
        with file:
            try:
                yield Writer(cache=self, key=key, part=part, file=file, rows=rows)
            finally:
                if _is_same_file(part, file):  # still there: not finished
                    part.unlink()

    def entries(self) -> list[Entry]:
        """List the entries, least recently used first."""
        found = [_entry(p) for p in self.folder.glob("*") if p.suffix in (".npy", ".part")]
        return sorted((e for e in found if e is not None), key=lambda entry: entry.last_used)

    def trim(self, size: float) -> list[Entry]:
        """Delete the least recently used entries until the rest fit into `size` bytes; return the deleted ones.

        Entries in use are skipped. Incomplete entries of killed processes are always deleted.
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
    """Appends rows to one entry's `.part` file, which `FeatureCache.writer` has locked."""

    cache: FeatureCache
    key: Key
    part: Path
    file: FileIO
    rows: int
    written: int = 0
    sha256: Any = dataclasses.field(default_factory=hashlib.sha256)

    def append(self, rows: np.ndarray) -> None:
        """Append rows, float32 [b, d]."""
        if not self.written:
            header = BytesIO()
            NPY.write_array_header_1_0(
                header, {"descr": "<f4", "fortran_order": False, "shape": (self.rows, rows.shape[1])}
            )
            self._put(header.getvalue())
        self._put(np.ascontiguousarray(rows, "<f4").data.cast("B"))
        self.written += len(rows)

    def _put(self, data: "bytes | memoryview[int]") -> None:
        self.sha256.update(data)
        with _write_errors(self.part.parent):
            while data:  # an unbuffered write may be short
                data = data[self.file.write(data) :]

    def finish(self, about: Mapping[str, Any]) -> CachedArray:
        """Publish the entry with `about` in its sidecar, delete old entries to make room, and map it.

        An entry larger than the cache's limit is mapped but not cached: its file disappears with the map.
        """
        assert self.written == self.rows, f"{self.written} of {self.rows} rows were written"
        about = {"key": self.key, "sha256": self.sha256.hexdigest(), "rows": self.rows, **about}
        with _write_errors(self.part.parent):
            os.fsync(self.file.fileno())
            if (size := self.file.tell()) <= self.cache.limit:
                self._rename(about)
                self.cache.trim(self.cache.limit)
            else:
                message = "These features (%.3g GB) are not cached: the cache is limited to %.3g GB."
                log.warning(message, size / 1e9, self.cache.limit / 1e9)
                self.part.unlink()
        fcntl.flock(self.file, fcntl.LOCK_SH)
        return CachedArray(array=_map(self.file), about=about)

    def _rename(self, about: Mapping[str, Any]) -> None:
        path = self.part.with_suffix(".npy")
        _sidecar(path).unlink(missing_ok=True)  # or a crash here could pair the new array with an old sidecar
        self.part.replace(path)
        described = {**about, "digest": digest(about)}
        write_atomic(_sidecar(path), json.dumps(described, indent=1) + "\n")


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _check(file: File, about: Mapping[str, Any], key: Key) -> None:
    """Compare the file with its sidecar and `key`; raises ValueError if they differ."""
    if not about:
        raise ValueError("they are incomplete")
    if about["key"] != json.loads(json.dumps(key)):
        raise ValueError("they belong to another key")
    value = hashlib.sha256()
    while block := file.read(1 << 20):
        value.update(block)
    if value.hexdigest() != about["sha256"]:
        raise ValueError("the file is damaged (its SHA-256 differs)")


def _map(file: File) -> np.ndarray:
    """Map an open `.npy` file, copy-on-write."""
    file.seek(0)
    # Not open_memmap, which opens the path again: the map must keep this file open, and with it the lock.
    NPY.read_magic(file)
    shape, _, dtype = NPY.read_array_header_1_0(file)
    return np.memmap(file, dtype, mode="c", offset=file.tell(), shape=shape)


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError (a full disk, a folder without write permission) into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The features cannot be cached in {folder} ({error.strerror}). No incomplete file remains. Free some "
            f"space or set BENCH_CACHE to another folder, then run again."
        ) from None


def _locked(part: Path) -> FileIO:
    """Open `part` empty and locked, creating it if missing.

    The lock is flock, not `bench.files.locked`: it must survive in the map, and closing one of several handles of the
    file, as `entries` does, must not release it.
    """
    while True:
        # Unbuffered, so a full disk raises in write and not again in close.
        file = FileIO(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        if not _try_lock(file):
            log.warning("Waiting for another process, which is extracting the same features.")
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_same_file(part, file):
            file.truncate(0)
            return file
        file.close()  # renamed or deleted while we waited


def _try_lock(file: File) -> bool:
    """Lock the file exclusively without waiting; return whether that succeeded."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same_file(path: Path, file: File) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _entry(path: Path) -> Entry | None:
    """Describe a file of the cache; None if it has just been deleted."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        free, found, about = _try_lock(file), os.fstat(file.fileno()), _about(path)
        return Entry(
            path=path, about=about, size=found.st_size, last_used=found.st_mtime, state=STATES[bool(about), free]
        )
    return None


def _about(path: Path) -> Mapping[str, Any]:
    """Read an entry's sidecar; {} if it is missing, damaged or edited."""
    try:
        about = json.loads(_sidecar(path).read_text("utf-8"))
        return about if about.pop("digest") == digest(about) else {}
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _delete(entry: Path) -> bool:
    """Delete an entry unless it is in use; return whether it is gone."""
    try:
        with entry.open("rb") as file:
            if not _try_lock(file):
                return False
            if entry.suffix == ".npy":
                _sidecar(entry).unlink(missing_ok=True)
            entry.unlink(missing_ok=True)
    except FileNotFoundError:
        pass  # deleted by another process
    return True


def limit() -> float:
    """Return the cache's limit in bytes: `$BENCH_CACHE_LIMIT`, in GB, else 20 GB."""
    given = os.environ.get(LIMIT, DEFAULT_LIMIT)
    try:
        if (gigabytes := float(given)) >= 0:
            return gigabytes * 1e9
    except ValueError:
        pass  # refused below, like negative values
    raise UserError(
        f"{LIMIT} is '{given}'. It must be a number of gigabytes, 0 or more ('inf' for no limit, {DEFAULT_LIMIT} when "
        f"unset): the size limit of cached features. Set it to such a number."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """A frozen model's features of a split, in the split's order.

    Args:
        layers: float32 [n, d] by layer, on the CPU, memory-mapped copy-on-write.
        seconds: extraction time of this process; 0 if the features were cached.
        images_per_second: of the original extraction; the slowest of the layers.
    """

    layers: Mapping[Layer, Tensor]
    seconds: float
    images_per_second: float

    @property
    def pooled(self) -> Tensor:
        """The model's output: before the classifier, after the architecture's own pooling."""
        return self.layers[POOLED]


def vectors(model: nn.Module, images: Tensor, layers: Sequence[Layer]) -> dict[Layer, Tensor]:
    """Compute each layer's vectors [b, d] of images [b, 3, h, w] in one pass.

    "pooled" is the model's output (for a timm model with num_classes=0, the input of its classifier). A number is the
    spatial mean of that stage's map (of a plain ViT: that block's), counted from 0, as timm's `forward_intermediates`
    returns it: without prefix tokens and before any final norm.
    """
    indices = sorted(layer for layer in layers if isinstance(layer, int))
    if not indices:
        return {POOLED: model(images)}
    network: Any = model
    maps_only = POOLED not in layers  # then the layers after the last map need not run
    output = network.forward_intermediates(images, indices=indices, intermediates_only=maps_only, stop_early=maps_only)
    maps = output if maps_only else output[1]
    found: dict[Layer, Tensor] = {i: m.mean((2, 3)) for i, m in zip(indices, maps, strict=True)}
    return found if maps_only else {**found, POOLED: network.forward_head(output[0])}


def extract(
    model: nn.Module,
    images: Dataset[tuple[Tensor, int]],
    *,
    key: Mapping[str, Any],
    cache: Path,
    device: str,
    layers: Sequence[Layer] = (POOLED,),
    about: Mapping[str, str] | None = None,
    num_workers: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Features:
    """Return the features of every image, from the cache if they are there.

    Missing layers are extracted in one pass and written batch by batch, so memory does not grow with the number of
    images. Each layer is an entry of its own: a protocol that needs further layers extracts only those.

    Args:
        model: maps images [b, 3, h, w] to features [b, d]; it is set to eval mode.
        images: a map-style data set of (image [3, h, w], label).
        key: everything else that determines the features, as JSON values: arch, data fingerprint, split, transform.
            Added here are the layer, the device type, the versions of torch and timm, and the SHA-256 of the model's
            weights after loading, so any change to the loaded weights changes the key.
        layers: see `vectors`.
        about: names that `python -m bench.features` prints; not part of the key.
        batch_size: not part of the key, since it changes the features by float rounding only (below 1e-5 relative).

    Raises UserError if features are not finite or the cache cannot be written.
    """
    cached = FeatureCache(cache / FOLDER, limit())
    key = {**key, "weights": weights_sha256(model), "extractor": _extractor(device)}
    keys = {layer: {**key, "layer": layer} for layer in layers}
    found = _open_all(cached, keys)
    seconds = 0.0
    if missing := {layer: key for layer, key in keys.items() if layer not in found}:
        loader = DataLoader(images, batch_size=batch_size, num_workers=num_workers, worker_init_fn=worker_ends_with_run)
        write = functools.partial(_write_vectors, model.to(device).eval(), loader, device)
        added, seconds = _fill(cached, missing, write, about or {}, rows=len(loader.dataset))
        found |= added
    return Features(
        layers={layer: torch.from_numpy(found[layer].array) for layer in layers},
        seconds=seconds,
        images_per_second=min(entry.about["images_per_second"] for entry in found.values()),
    )


def weights_sha256(model: nn.Module) -> str:
    """Return the hash of a model's parameters and buffers: names, types, shapes and contents."""
    value = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        value.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        value.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return value.hexdigest()


def _extractor(device: str) -> dict[str, Any]:
    import timm

    versions = {"torch": torch.__version__, "timm": timm.__version__}
    return {"version": VERSION, "device": torch.device(device).type, **versions}


def _open_all(cached: FeatureCache, keys: Mapping[Layer, Key]) -> dict[Layer, CachedArray]:
    return {layer: entry for layer, key in keys.items() if (entry := cached.open(key))}


def _fill(
    cached: FeatureCache,
    keys: Mapping[Layer, Key],
    write: Callable[[Mapping[Layer, Writer]], None],
    about: Mapping[str, str],
    *,
    rows: int,
) -> tuple[dict[Layer, CachedArray], float]:
    """Extract the entries that no other process added while this one waited; return all, and the seconds."""
    with contextlib.ExitStack() as stack:
        in_order = sorted(
            keys, key=lambda layer: cached.path(keys[layer])
        )  # one order for all processes, or two could deadlock
        writers = {la: stack.enter_context(cached.writer(keys[la], rows)) for la in in_order}
        found = _open_all(cached, keys)
        left = {layer: writer for layer, writer in writers.items() if layer not in found}
        if not left:
            return found, 0.0
        started = time.perf_counter()
        write(left)
        seconds = time.perf_counter() - started
        facts = {"made": environment.now(), "images_per_second": rows / seconds, **about}
        return found | {layer: w.finish(facts) for layer, w in left.items()}, seconds


def _write_vectors(model: nn.Module, loader: Any, device: str, writers: Mapping[Layer, Writer]) -> None:
    """Write the vectors of every batch; raises UserError at the first batch with a value that is not finite."""
    console = Console(stderr=True)
    bar = track(loader, "features", console=console, transient=True, disable=not console.is_terminal)
    try:
        with torch.inference_mode():
            for batch, _ in bar:
                for layer, rows in vectors(model, batch.to(device), list(writers)).items():
                    rows = rows.float().cpu()
                    _check_finite(rows, writers[layer].written)
                    writers[layer].append(rows.numpy())
    except UserError as error:  # a loader's worker prefixes the message with its traceback
        raise UserError(str(error).split(f"{UserError.__name__}: ")[-1].strip()) from None


def _check_finite(rows: Tensor, before: int) -> None:
    if bad := int((~rows.isfinite()).any(1).sum()):
        raise UserError(
            f"The backbone's features are NaN or infinite for {bad} of the images {before + 1} to "
            f"{before + len(rows)}. Nothing was cached. Its weights are damaged or in a number "
            f"format that overflows: load and check them."
        )


def _row(entry: Entry) -> list[str]:
    """Return an entry's row of the table."""
    about = entry.about
    key = about.get("key", {})
    used = datetime.datetime.fromtimestamp(entry.last_used).isoformat(" ", "minutes")
    return [
        str(about.get("backbone") or key.get("arch", "")),
        str(about.get("weights") or key.get("weights", "")[:8]),
        str(about.get("data") or key.get("data", "")[:8]),
        str(key.get("split", "")),
        str(key.get("transform", {}).get("img_size", "")),
        str(key.get("layer", "")),
        f"{about.get('rows', 0):,}",
        f"{entry.size / 1e6:,.1f}",
        used,
        entry.state,
    ]


def _show(cached: FeatureCache, console: Console) -> None:
    columns = ("backbone", "weights", "data", "split", "px", "layer", "images", "MB", "last used")
    table = Table(*columns, "state", box=None)
    entries = cached.entries()
    for entry in reversed(entries):
        table.add_row(*_row(entry))
    if entries:
        console.print(table)
    total = sum(entry.size for entry in entries) / 1e9
    console.print(
        f"{len(entries)} entries, {total:.3f} of {cached.limit / 1e9:g} GB ({LIMIT}), in {cached.folder}",
        soft_wrap=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """List the cache, or delete what no run is using."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.features", description="List the cache of frozen features and its limit."
    )
    parser.add_argument("--clear", action="store_true", help="delete every entry that no run is using")
    console = Console()
    try:
        cached = FeatureCache(cache_dir() / FOLDER, limit())
        if parser.parse_args(arguments).clear:
            deleted = cached.trim(0)
            size = sum(entry.size for entry in deleted) / 1e9
            console.print(f"Deleted {len(deleted)} entries, {size:.3f} GB.")
        _show(cached, console)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
