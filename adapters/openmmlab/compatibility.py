"""What must be true of a process before it imports any OpenMMLab package: `prepare()`.

The forks and mmpose 1.3.2 then import together, uncompiled and unedited. mmpose checks versions of
mmcv and mmengine only; the forks' own numbers satisfy it, so no version is pretended here.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import PurePath

# mmengine looks a scope's files up by distribution, under the official names, and installs what it
# does not find (mmengine.hub.get_config).
FORKS = {"mmdet": "onedl-mmdetection", "mmseg": "onedl-mmsegmentation"}

INSTALLERS = {"pip", "pip3", "uv", "mim", "conda", "mamba"}
INSTALLING = {"install", "add", "sync", "download"}
# Which argument of each audit event (PEP 578) holds the command.
LAUNCHES = {"subprocess.Popen": 1, "os.system": 0, "os.exec": 1, "os.posix_spawn": 1}


@cache
def prepare() -> None:
    """Ready this process for OpenMMLab; call it before the first mm import, as often as you like.

    Raises:
        AssertionError: mmdet's or mmpose's COCO evaluation was imported before.
    """
    from adapters.openmmlab import (  # imports torch, which `refuse_installs` need not wait for
        coco,
        ops,
    )

    refuse_installs()
    ops.install()
    coco.install()
    _silence()
    _name_the_forks()


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


def _name_the_forks() -> None:
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.update(FORKS)


def _silence() -> None:
    """Silence what the packages say on import that nobody can act on."""
    # Docstrings of the forks; Python 3.12 shows it once, when it first compiles them.
    warnings.filterwarnings("ignore", "invalid escape sequence", SyntaxWarning)
    _drop_debug_prints()


def _drop_debug_prints() -> None:
    """Keep `print_log(..., level=DEBUG)` without a logger from printing.

    The forks' datasets announce an optional package so, on every import, on standard output.
    """
    import mmengine.logging

    original = mmengine.logging.print_log

    def print_log(msg: object, logger: object = None, level: int = logging.INFO) -> None:
        if logger is not None or level > logging.DEBUG:
            original(msg, logger, level)

    mmengine.logging.print_log = print_log
