"""Frozen features: extracted once, kept in the cache, shared by every frozen protocol.

    python -m bench.features            # what the cache holds
    python -m bench.features --clear    # delete what no run is using

An entry is named by the hash of everything that made it, so it never goes stale; one that is
half-written, damaged or of something else is made again (`bench.feature_cache`). What is kept is no
protocol's own: vectors of un-augmented images, as the model gives them, which classification's linear
head and nearest neighbours read alike. Frozen segmentation, detection, pose and depth have nothing to
share: they train on random crops, and on whole maps.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench import provenance
from bench.errors import UserError
from bench.feature_cache import Entry, FeatureCache, Held, Key, Writer
from bench.processes import worker_ends_with_run

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
        facts = {"made": provenance.now(), "images_per_second": rows / seconds, **about}
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
        f"{len(entries)} entries, {total:.3f} of {kept.limit / 1e9:g} GB ({LIMIT}), in {kept.folder}",
        soft_wrap=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the cache holds, or empty it."""
    parser = argparse.ArgumentParser(prog="python -m bench.features", description=ABOUT)
    parser.add_argument("--clear", action="store_true", help="delete all that no run is using")
    console = Console()
    try:
        kept = FeatureCache(provenance.cache_dir() / FOLDER, limit())
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
