"""The environment that a record states (commit, versions, processor), and a guard against installs during a run."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePath
from typing import Any

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


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def environment() -> dict[str, str]:
    """Return the versions of all packages that can change a number, and the machine."""
    versions = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}
    machine = {"platform": platform.platform(), "processor": processor()}
    return {"python": platform.python_version(), **machine, **versions}


def processor() -> str:
    """Return the processor's model name: two models round differently."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def git() -> dict[str, Any]:
    """Return the project's commit, and whether its files differ from it; nulls outside a checkout."""
    here = Path(__file__).parent

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


INSTALLERS = {"pip", "pip3", "uv", "mim", "conda", "mamba"}
INSTALLING = {"install", "add", "sync", "download"}
# The index of the command among each audit event's arguments (PEP 578).
LAUNCHES = {"subprocess.Popen": 1, "os.system": 0, "os.exec": 1, "os.posix_spawn": 1}


@cache
def refuse_installs() -> None:
    """Make starting pip or another installer in this process an error, until the process ends."""
    sys.addaudithook(_refuse_install)


def _refuse_install(event: str, arguments: tuple[object, ...]) -> None:
    if event in LAUNCHES and _installs(words := list(_words(arguments[LAUNCHES[event]]))):
        raise RuntimeError(
            f"Refused to run '{' '.join(words)}': nothing is installed while the harness runs, so "
            "that its numbers come from the pinned versions. Add the missing package to "
            "pyproject.toml and constraints.txt, and set the environment up again."
        )


def _words(command: object) -> Iterator[str]:
    """Yield the words of a command given as text, bytes, a path, or a sequence of those."""
    if isinstance(command, (str, bytes, os.PathLike)):
        yield from os.fsdecode(command).split()
    elif isinstance(command, Iterable):
        for part in command:
            yield from _words(part)


def _installs(words: list[str]) -> bool:
    installer = next((i for i, w in enumerate(words) if PurePath(w).name in INSTALLERS), None)
    return installer is not None and not INSTALLING.isdisjoint(words[installer:])
