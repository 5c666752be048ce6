"""Where a number came from: commit, versions, device, and hashes of files."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.results import write_atomic

DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "timm",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmsegmentation",
    "onedl-mmdetection",
    "mmpose",
    "numpy",
)


def cache_dir() -> Path:
    """The folder of what can be made again: `$BENCH_CACHE`, else `~/.cache/bench`."""
    return Path(os.environ.get("BENCH_CACHE", "~/.cache/bench")).expanduser()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def environment() -> dict[str, str]:
    """Versions of everything that can move a number, and the machine."""
    versions = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}
    machine = {"platform": platform.platform(), "processor": processor()}
    return {"python": platform.python_version(), **machine, **versions}


def processor() -> str:
    """The processor's model, as the system names it: two models round differently."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def git() -> dict[str, Any]:
    """The project's commit, and whether its files differ from it; nulls outside a checkout."""
    here = Path(__file__).parent

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def file_sha256(path: Path) -> str:
    """A file's SHA-256; remembered, so that an unchanged file is read once."""
    return content_sha256(path.parent, [path])


def content_sha256(root: Path, files: Iterable[Path]) -> str:
    """The SHA-256 over the files' paths (relative to `root`) and contents; a single file's own.

    The answer is remembered under the files' sizes and modification times, never under them alone:
    moving a data set changes neither its hash nor, once hashed, a record's digest.
    """
    files = sorted(files)
    stats = [(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    signature = hashlib.sha256(json.dumps([str(root.resolve()), stats]).encode()).hexdigest()
    memory = cache_dir() / "sha256" / signature
    if memory.is_file():
        return memory.read_text()
    value = _sha256(root, files)
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(memory, value)
    return value


def _sha256(root: Path, files: list[Path]) -> str:
    def one(path: Path) -> str:
        with path.open("rb") as file:
            value = hashlib.sha256()
            while block := file.read(1 << 20):
                value.update(block)
            return value.hexdigest()

    if len(files) == 1:
        return one(files[0])
    lines = "".join(f"{one(f)}  {f.relative_to(root).as_posix()}\n" for f in files)
    return hashlib.sha256(lines.encode()).hexdigest()
