"""What must be true of a process before it imports any OpenMMLab package: `prepare()`.

The forks and mmpose 1.3.2 then import together, uncompiled and unedited. mmpose checks versions of
mmcv and mmengine only; the forks' own numbers satisfy it, so no version is pretended here.
"""

import logging
import sys
import warnings
from functools import cache

from bench.environment import refuse_installs

# mmengine looks a scope's files up by distribution, under the official names, and installs what it
# does not find (mmengine.hub.get_config).
FORKS = {"mmdet": "onedl-mmdetection", "mmseg": "onedl-mmsegmentation"}


@cache
def prepare() -> None:
    """Ready this process for OpenMMLab; call it before the first mm import, as often as you like.

    Raises:
        AssertionError: mmdet's or mmpose's COCO evaluation was imported before.
    """
    from adapters.openmmlab import coco_evaluation, ops

    refuse_installs()
    ops.install()
    coco_evaluation.install()
    _hide_unused()
    _silence()
    _name_the_forks()


def _name_the_forks() -> None:
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.update(FORKS)


def _hide_unused() -> None:
    """Keep optional packages out, where they are installed: of models that nothing here has.

    Importing them takes seconds of every run, and mmpretrain's BLIP does not import beside
    transformers 5, which would end mmdet's own import.
    """
    for package in ("mmpretrain", "transformers"):
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # import's own way to say no


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
