"""The cache of frozen features: memory-mapped arrays with their checksums, and a limit to their size.

An entry is one array [images, width]: `<hash of its key>.npy`, numpy's own format, and beside it a
`.json` with the key, the file's SHA-256, its own digest and how fast it was made. The array is written row by row into
a `.part` file, which is synced and renamed, then the `.json` is; so an entry without a `.json` was cut
short. Each opening reads the file once and compares its SHA-256 (some 1.8 GB a second, a hundredth of
the time that the features took), so a byte that was flipped, whenever and by whom, is never used.

Who writes a file, or has it mapped, holds a lock on that file itself, which ends with the process or the
map: two processes make an entry once, and none that is in use is deleted.
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

from bench import environment, files
from bench.errors import UserError
from bench.files import digest, write_atomic
from bench.processes import worker_ends_with_run

log = logging.getLogger(__name__)

# By whether the entry is described, and whether nobody holds it.
STATES = {(True, True): "whole", (True, False): "in use", (False, True): "half-written", (False, False): "being made"}
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
            path=path, about=about, size=found.st_size, last_used=found.st_mtime, state=STATES[bool(about), free]
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


# Frozen features: extracted once, kept in the cache, shared by every frozen protocol.
#
#
# An entry is named by the hash of everything that made it, so it never goes stale; one that is
# half-written, damaged or of something else is made again (`bench.features`). What is kept is no
# protocol's own: vectors of un-augmented images, as the model gives them, which classification's linear
# head and nearest neighbours read alike. Frozen segmentation, detection, pose and depth have nothing to
# share: they train on random crops, and on whole maps.

VERSION = 2  # raised when other features come of the same key, be it by how `bench` builds a model
BATCH_SIZE = 64
FOLDER = "features"  # below the cache
LIMIT = "BENCH_CACHE_LIMIT"
DEFAULT_LIMIT = "20"  # GB

Layer = str | int
POOLED = "pooled"
ABOUT = "What the cache of frozen features holds, and its limit."


def limit() -> float:
    """How many bytes the entries may take together: `$BENCH_CACHE_LIMIT`, in GB, else 20 GB."""
    given = os.environ.get(LIMIT, DEFAULT_LIMIT)
    try:
        if (gigabytes := float(given)) >= 0:
            return gigabytes * 1e9
    except ValueError:
        pass  # said below, with the negative ones
    raise UserError(
        f"{LIMIT} is '{given}'. It is the size that cached features may take, a number of gigabytes, 0 or more "
        f"('inf' for no limit, {DEFAULT_LIMIT} when unset). Set it to a number."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What a frozen model says of a split, in the split's order.

    Args:
        layers: float32 [n, d] by layer, on the CPU, memory-mapped: read where they are used. Writing
            to one changes no file.
        seconds: what this process spent on extraction; 0 when the features were in the cache.
        images_per_second: of the extraction, whenever that was.
    """

    layers: Mapping[Layer, Tensor]
    seconds: float
    images_per_second: float

    @property
    def pooled(self) -> Tensor:
        """What comes out of the model: before the classifier, by the architecture's own pooling."""
        return self.layers[POOLED]


def vectors(model: nn.Module, images: Tensor, layers: Sequence[Layer]) -> dict[Layer, Tensor]:
    """Each layer's vectors [b, d] of images [b, 3, h, w], in one pass.

    "pooled" is the model's output (of a timm model with num_classes=0, what its classifier would
    see). A number is the mean over the map of that stage, or block of a plain ViT, counted from 0, as
    timm's `forward_intermediates` gives it: without prefix tokens and before any final norm.
    """
    indices = sorted(layer for layer in layers if isinstance(layer, int))
    if not indices:
        return {POOLED: model(images)}
    network: Any = model
    alone = POOLED not in layers  # then what is behind the last map is not run
    how = {"indices": indices, "intermediates_only": alone, "stop_early": alone}
    given = network.forward_intermediates(images, **how)
    maps = given if alone else given[1]
    found: dict[Layer, Tensor] = {i: m.mean((2, 3)) for i, m in zip(indices, maps, strict=True)}
    return found if alone else {**found, POOLED: network.forward_head(given[0])}


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
    """Return the features of every image, from the cache where they are.

    What is missing is made in one pass and written as it comes, in memory that does not grow with the
    number of images. Each layer is an entry, so a protocol that asks for more makes only the rest.

    Args:
        model: maps images [b, 3, h, w] to features [b, d]; it is put into eval mode.
        images: a map-style data set of (image [3, h, w], label).
        key: everything else that decides the features, as JSON values: arch, data fingerprint, split,
            transform. Added here are the layer, the kind of device, the versions of torch and timm,
            and the SHA-256 of the model's weights as they were loaded: whatever adapted, drew or
            left out some of them has its say.
        layers: see `vectors`.
        about: names for `python -m bench.features` to print; they decide nothing.
        batch_size: how many images at a time; changes the features by float rounding only
            (below 1e-5 of their size), and so is not part of the key.

    Raises UserError for features that are not finite and when the cache cannot be written.
    """
    kept = FeatureCache(cache / FOLDER, limit())
    key = {**key, "weights": weights_sha256(model), "extractor": _extractor(device)}
    keys = {layer: {**key, "layer": layer} for layer in layers}
    found = _open(kept, keys)
    seconds = 0.0
    if missing := {layer: key for layer, key in keys.items() if layer not in found}:
        settings = {"num_workers": num_workers, "worker_init_fn": worker_ends_with_run}
        loader = DataLoader(images, batch_size=batch_size, **settings)
        run = functools.partial(_forward, model.to(device).eval(), loader, device)
        made, seconds = _make(kept, missing, run, about or {}, rows=len(loader.dataset))
        found |= made
    return Features(
        layers={layer: torch.from_numpy(found[layer].array) for layer in layers},
        seconds=seconds,
        images_per_second=min(held.about["images_per_second"] for held in found.values()),
    )


def weights_sha256(model: nn.Module) -> str:
    """The hash of a model's parameters and buffers: names, types, shapes and contents."""
    value = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        value.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        value.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return value.hexdigest()


def _extractor(device: str) -> dict[str, Any]:
    import timm

    versions = {"torch": torch.__version__, "timm": timm.__version__}
    return {"version": VERSION, "device": torch.device(device).type, **versions}


def _open(kept: FeatureCache, keys: Mapping[Layer, Key]) -> dict[Layer, Held]:
    return {layer: held for layer, key in keys.items() if (held := kept.open(key))}


def _make(
    kept: FeatureCache,
    keys: Mapping[Layer, Key],
    run: Callable[[Mapping[Layer, Writer]], None],
    about: Mapping[str, str],
    *,
    rows: int,
) -> tuple[dict[Layer, Held], float]:
    """Make the entries of `keys`, but those that another process made while this one waited for it."""
    with contextlib.ExitStack() as stack:
        in_order = sorted(keys, key=lambda layer: kept.path(keys[layer]))  # or two would deadlock
        writers = {la: stack.enter_context(kept.writer(keys[la], rows)) for la in in_order}
        found = _open(kept, keys)
        left = {layer: writer for layer, writer in writers.items() if layer not in found}
        if not left:
            return found, 0.0
        started = time.perf_counter()
        run(left)
        seconds = time.perf_counter() - started
        facts = {"made": environment.now(), "images_per_second": rows / seconds, **about}
        return found | {layer: w.finish(facts) for layer, w in left.items()}, seconds


def _forward(model: nn.Module, loader: Any, device: str, writers: Mapping[Layer, Writer]) -> None:
    """Write the vectors of every batch as it comes; raises UserError at the first that is not finite."""
    console = Console(stderr=True)
    quiet = not console.is_terminal
    bar = track(loader, "features", console=console, transient=True, disable=quiet)
    try:
        with torch.inference_mode():
            for batch, _ in bar:
                for layer, rows in vectors(model, batch.to(device), list(writers)).items():
                    rows = rows.float().cpu()
                    _check_finite(rows, writers[layer].written)
                    writers[layer].append(rows.numpy())
    except UserError as error:  # a loader's process wraps it in its traceback
        raise UserError(str(error).split(f"{UserError.__name__}: ")[-1].strip()) from None


def _check_finite(rows: Tensor, before: int) -> None:
    if bad := int((~rows.isfinite()).any(1).sum()):
        raise UserError(
            f"The backbone gave features that are not finite for {bad} of the images {before + 1} to "
            f"{before + len(rows)}. Nothing was kept. Its weights are damaged, or of a number format that "
            f"overflows; load and check them."
        )


def _row(entry: Entry) -> list[str]:
    """An entry as the table has it."""
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


def _show(kept: FeatureCache, console: Console) -> None:
    columns = ("backbone", "weights", "data", "split", "px", "layer", "images", "MB", "last used")
    table = Table(*columns, "state", box=None)
    entries = kept.entries()
    for entry in reversed(entries):
        table.add_row(*_row(entry))
    if entries:
        console.print(table)
    total = sum(entry.size for entry in entries) / 1e9
    console.print(
        f"{len(entries)} entries, {total:.3f} of {kept.limit / 1e9:g} GB ({LIMIT}), in {kept.folder}", soft_wrap=True
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the cache holds, or empty it."""
    parser = argparse.ArgumentParser(prog="python -m bench.features", description=ABOUT)
    parser.add_argument("--clear", action="store_true", help="delete all that no run is using")
    console = Console()
    try:
        kept = FeatureCache(files.cache_dir() / FOLDER, limit())
        if parser.parse_args(arguments).clear:
            deleted = kept.trim(0)
            size = sum(entry.size for entry in deleted) / 1e9
            console.print(f"Deleted {len(deleted)} entries, {size:.3f} GB.")
        _show(kept, console)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
