"""The folder of an embedded world: generated once, then checked at every use.

from bench.scenes.world import World, ensure
root = ensure(World())
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import cache_dir, locked, write_atomic
from bench.scenes.recipe import GENERATOR_VERSION, World, combined_hash, sha256

__all__ = ["World", "check", "ensure", "make", "read_manifest"]

MANIFEST = "manifest.json"

_REMEDY = "Delete that folder and run the same command again to generate the world again."
WAITING = "Another process is generating this world; waiting for it (%s)."

log = logging.getLogger(__name__)


def ensure(world: World, cache: Path | None = None, *, workers: int | None = None, device: str = "cpu") -> Path:
    """Return a world's folder in the cache, generated if it is missing (safe in several processes), as `make` does.

    workers: processes that render; the number of usable cores when None.
    """
    target = (cache or cache_dir()) / "scenes" / world.fingerprint()[:16]
    return make(world, target, workers=workers, device=device)


def make(world: World, target: Path, *, workers: int | None = None, device: str = "cpu") -> Path:
    """Return `target`, its world checked or generated; raises UserError if it was changed or cannot be written."""
    if _absent(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = target.with_name(f".{target.name}.lock")
            with locked(lock, on_busy=lambda: log.warning(WAITING, lock)):
                if _absent(target):
                    _generate(world, target, workers, device)
        except OSError as error:
            raise UserError(
                f"The embedded world cannot be written to {target}: {error.strerror or error}. "
                "Free some space there, or name another place with BENCH_CACHE or --out."
            ) from error
    check(target, world)
    return target


def _absent(target: Path) -> bool:
    """Return whether there is nothing, or an empty folder, which a rename may replace."""
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _generate(world: World, target: Path, workers: int | None, device: str) -> None:
    from bench.scenes.generate import generate

    # This process has the lock, so no other one is still writing these.
    for stale in target.parent.glob(f".{target.name}.*.partial"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        manifest = generate(world, partial, workers=workers, device=device)
        write_atomic(partial / MANIFEST, json.dumps(manifest, indent=1))
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_manifest(root: Path) -> dict[str, Any]:
    """Return a world's manifest (recipe, sizes, hashes); raises UserError if there is none, or it is damaged."""
    try:
        manifest: dict[str, Any] = json.loads((root / MANIFEST).read_text())
        return {key: manifest[key] for key in ("recipe", "generator", "files", "sha256", "pixels")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{root} is not a whole embedded world: its {MANIFEST} is missing or damaged, so the folder was half "
            f"written or changed. {_REMEDY}"
        ) from error


def check(root: Path, world: World | None = None, *, contents: bool = False) -> dict[str, Any]:
    """Return a world's manifest; raises UserError if it is another world, or a file is missing, added or changed.

    Args:
        world: the world expected; any when None.
        contents: also hash every byte, not only compare names and sizes (seconds instead of milliseconds).
    """
    manifest = read_manifest(root)
    if world is not None and (manifest["recipe"], manifest["generator"]) != (asdict(world), GENERATOR_VERSION):
        raise UserError(
            f"{root} holds another world (recipe {manifest['recipe']}, generator "
            f"{manifest['generator']}) than the one asked for ({asdict(world)}, generator "
            f"{GENERATOR_VERSION}). Name another folder, or delete that one."
        )
    for folder, sizes in manifest["files"].items():
        _compare(root, folder, sizes)
    if contents:
        for folder, sizes in manifest["files"].items():
            hashes = {name: sha256((root / folder / name).read_bytes()) for name in sizes}
            if combined_hash(hashes) != manifest["sha256"][folder]:
                raise UserError(
                    f"A file in {root / folder} was changed after the embedded world was generated (its "
                    f"sha256 differs from {MANIFEST}). {_REMEDY}"
                )
    return manifest


def _compare(root: Path, folder: str, sizes: dict[str, int]) -> None:
    """Raise UserError unless a folder's files have the names and sizes of the manifest."""
    try:
        with os.scandir(root / folder) as entries:
            found = {e.name: e.stat().st_size for e in entries if e.is_file()}
    except OSError:
        found = {}
    found.pop(MANIFEST if folder == "." else "", None)
    if found == sizes:
        return
    wrong = sorted(n for n in found.keys() | sizes.keys() if found.get(n) != sizes.get(n))
    name = wrong[0]
    state = "missing" if name not in found else "unexpected" if name not in sizes else "changed"
    raise UserError(
        f"The embedded world in {root} is half written or was changed: {Path(folder) / name} is "
        f"{state}, and {len(wrong)} file(s) in that folder differ from {MANIFEST}. {_REMEDY}"
    )
