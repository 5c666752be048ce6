"""Prepare a process for OpenMMLab before it imports any of its packages: `prepare()`.

The forks and mmpose 1.3.2 then import together, uncompiled and unmodified. mmpose checks the versions of mmcv and
mmengine only, and the forks' versions satisfy it.
"""

import logging
import sys
import warnings
from functools import cache

from bench.environment import refuse_installs

# mmengine looks a scope up under its official distribution's name, and installs what it does not find
# (mmengine.hub.get_config).
FORKS = {"mmdet": "onedl-mmdetection", "mmseg": "onedl-mmsegmentation"}


@cache
def prepare() -> None:
    """Prepare this process for OpenMMLab, once; call it before the first mm import.

    Raises:
        AssertionError: mmdet's or mmpose's COCO evaluation is imported already.
    """
    from adapters.openmmlab import coco_evaluation, ops

    refuse_installs()
    ops.install()
    coco_evaluation.install()
    _hide_unused_packages()
    # In docstrings of the forks; Python 3.12 warns when it first compiles them.
    warnings.filterwarnings("ignore", "invalid escape sequence", SyntaxWarning)
    _drop_debug_prints()
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.update(FORKS)


def _hide_unused_packages() -> None:
    """Make the import of optional packages fail, for models that are not used here.

    Importing them would take seconds of every run; and mmpretrain's BLIP fails with transformers 5, and with it
    mmdet's own import.
    """
    for package in ("mmpretrain", "transformers"):
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None makes `import` raise


def _drop_debug_prints() -> None:
    """Make `print_log(..., level=DEBUG)` without a logger print nothing.

    The forks' data sets print the lack of an optional package that way on every import.
    """
    import mmengine.logging

    original = mmengine.logging.print_log

    def print_log(msg: object, logger: object = None, level: int = logging.INFO) -> None:
        if logger is not None or level > logging.DEBUG:
            original(msg, logger, level)

    mmengine.logging.print_log = print_log
