"""Nothing is installed while a run goes on: its numbers come from the pinned versions."""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import PurePath

INSTALLERS = {"pip", "pip3", "uv", "mim", "conda", "mamba"}
INSTALLING = {"install", "add", "sync", "download"}
# Which argument of each audit event (PEP 578) holds the command.
LAUNCHES = {"subprocess.Popen": 1, "os.system": 0, "os.exec": 1, "os.posix_spawn": 1}


@cache
def refuse_installs() -> None:
    """From now on, starting pip or its like in this process is an error (it cannot be undone)."""
    sys.addaudithook(_refuse_install)


def _refuse_install(event: str, arguments: tuple[object, ...]) -> None:
    if event in LAUNCHES and _installs(words := list(_words(arguments[LAUNCHES[event]]))):
        raise RuntimeError(
            f"Refused to run '{' '.join(words)}': nothing is installed while the harness runs, so "
            "that its numbers come from the pinned versions. Add what is missing to "
            "pyproject.toml and constraints.txt, and set the environment up again."
        )


def _words(command: object) -> Iterator[str]:
    """The words of a command given as text, bytes, a path, or a sequence of those."""
    if isinstance(command, (str, bytes, os.PathLike)):
        yield from os.fsdecode(command).split()
    elif isinstance(command, Iterable):
        for part in command:
            yield from _words(part)


def _installs(words: list[str]) -> bool:
    installer = next((i for i, w in enumerate(words) if PurePath(w).name in INSTALLERS), None)
    return installer is not None and not INSTALLING.isdisjoint(words[installer:])
