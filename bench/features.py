"""Frozen features: extracted once, kept in the cache, shared by every frozen protocol.

A file of features is named by the hash of everything that made it, so it never goes stale; one that
is truncated, damaged or of something else is made again.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.errors import UserError
from bench.processes import worker_ends_with_run
from bench.results import digest

VERSION = 1  # raised when this module makes other features from the same key
BATCH_SIZE = 64

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What a frozen model says of a split, in the split's order.

    Args:
        features: float32 [n, d], on the CPU.
        labels: int64 [n].
        seconds: what this process spent on extraction; 0 when the features were in the cache.
        images_per_second: of the extraction, whenever that was.
    """

    features: Tensor
    labels: Tensor
    seconds: float
    images_per_second: float


def extract(
    model: nn.Module,
    images: Dataset[tuple[Tensor, int]],
    *,
    key: Mapping[str, Any],
    cache: Path,
    device: str,
    num_workers: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Features:
    """Return the model's outputs [n, d] for every image, from the cache where they are.

    Args:
        model: maps images [b, 3, h, w] to features [b, d]; it is put into eval mode.
        images: a map-style data set of (image [3, h, w], label).
        key: everything that decides the features, as JSON values: the backbone (arch, SHA-256 of the
            weights, or the seed they were drawn from), data fingerprint, split, transform, pooling.
            The kind of device and the versions of torch and timm are added here.
        batch_size: how many images at a time; changes the features by float rounding only
            (below 1e-5 of their size), and so is not part of the key.

    Raises UserError for features that are not finite and when the cache cannot be written.
    """
    key = {**key, "extractor": _extractor(device)}
    path = cache / "features" / f"{digest(key)}.safetensors"
    if (kept := _read(path, key)) is not None:
        return kept
    started = time.perf_counter()
    features, labels = _forward(model, images, device, num_workers, batch_size)
    _check_finite(features)
    seconds = time.perf_counter() - started
    made = Features(
        features=features,
        labels=labels,
        seconds=seconds,
        images_per_second=len(labels) / seconds,
    )
    _write(path, made, key)
    return made


def _extractor(device: str) -> dict[str, Any]:
    import timm

    versions = {"torch": torch.__version__, "timm": timm.__version__}
    return {"version": VERSION, "device": torch.device(device).type, **versions}


def _forward(
    model: nn.Module, images: Any, device: str, num_workers: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    model = model.to(device).eval()
    settings = {"num_workers": num_workers, "worker_init_fn": worker_ends_with_run}
    loader = DataLoader(images, batch_size=batch_size, **settings)
    features, labels = [], []
    console = Console(stderr=True)
    quiet = not console.is_terminal
    bar = track(loader, "features", console=console, transient=True, disable=quiet)
    try:
        with torch.inference_mode():
            for batch, label in bar:
                features.append(model(batch.to(device)).float().cpu())
                labels.append(label)
    except UserError as error:  # a loader's process wraps it in its traceback
        raise UserError(str(error).split(f"{UserError.__name__}: ")[-1].strip()) from None
    return torch.cat(features), torch.cat(labels).long()


def _check_finite(features: Tensor) -> None:
    if bad := int((~features.isfinite()).any(1).sum()):
        raise UserError(
            f"The backbone gave features that are not finite for {bad} of {len(features)} images. Nothing was "
            f"kept. Its weights are damaged, or of a number format that overflows; load and check them."
        )


def _read(path: Path, key: Mapping[str, Any]) -> Features | None:
    """Return the features at `path`, or None where there is no whole file of just this key."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("key") != _canonical(key):
            raise ValueError("it is of something else")
        if about.get("sha256") != _sha256(tensors):
            raise ValueError("its contents are not what was written")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        log.warning("The features in %s are made again: %s.", path, error)
        return None
    return Features(**tensors, seconds=0.0, images_per_second=float(about["images_per_second"]))


def _write(path: Path, made: Features, key: Mapping[str, Any]) -> None:
    """Write a temporary file beside `path`, fsync, rename: never half a file."""
    tensors = {"features": made.features, "labels": made.labels}
    about = {
        "key": _canonical(key),
        "sha256": _sha256(tensors),
        "images_per_second": repr(made.images_per_second),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(safetensors.torch.save(tensors, about))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        size = made.features.nbytes / 1e6
        raise UserError(
            f"The features ({size:.1f} MB) cannot be kept in {path.parent} ({error.strerror}). No half file "
            f"was left. Free some space, or give another folder with --work-dir, and run again."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    value = hashlib.sha256()
    for name in sorted(tensors):
        value.update(tensors[name].contiguous().numpy().tobytes())
    return value.hexdigest()
