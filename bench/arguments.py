"""What `python -m bench.run` can be told."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import launch

LISTS = ("backbones", "tasks", "protocols")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options; argparse ends the process where one is not known."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Evaluate backbones on tasks and keep one JSON record per number.",
        epilog="Exit status: 0 all in the store (or submitted), 1 a run failed (its record says why), 2 wrong request.",
    )
    _what(parser.add_argument_group("what to evaluate").add_argument)
    _where(parser.add_argument_group("where its files are").add_argument)
    _how(parser.add_argument_group("how to run it").add_argument)
    return parser.parse_args(argv)


def _what(add: Callable[..., object]) -> None:
    add(
        "--backbone", nargs="+", default=[], metavar="NAME", help="timm arch[.tag], arch@FILE, FILE"
    )
    add("--task", nargs="+", default=[], metavar="TASK", help="family/dataset, family, or all")
    add("--watch", type=Path, metavar="DIR", help="the weights of a pretraining, as they appear")
    add("--suite", metavar="NAME|FILE.toml", help="pretrain and evaluate all that a suite names")
    add(
        "--protocol",
        help="finetune, frozen, ... (default: the task's first); NAME-drop2: without the last two blocks",
    )
    add("--seeds", type=int, default=1, metavar="N", help="seeds 0...N-1 (default 1)")
    add(
        "--allow-partial",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="keys of weights files (blocks.11.*) that may be missing, left over or misshapen",
    )
    add("--include", type=Path, action="append", default=[], metavar="FILE.py", help="own entries")
    add("--list", metavar="|".join(LISTS), help="print the known names")


def _where(add: Callable[..., object]) -> None:
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="the store of records")
    add("--work-dir", type=Path, default=Path("runs"), metavar="DIR", help="logs and checkpoints")
    add("--data-root", type=Path, metavar="DIR", help="real data sets (default $BENCH_DATA)")
    add("--keep-weights", action="store_true", help="leave fine-tuned backbones in --work-dir")


def _how(add: Callable[..., object]) -> None:
    add("--dry-run", action="store_true", help="print the plan and its cost, run nothing")
    add("--smoke", action="store_true", help="a few images, one epoch: does it run at all?")
    add("--gpus", type=int, default=1, metavar="N", help="GPUs that share each run (default 1)")
    add("--cluster", default="inline", help=f"{', '.join(launch.CLUSTERS)} (default inline)")
    add(
        "--jobs", type=int, default=1, metavar="N", help="local, no GPU: N runs at once (default 1)"
    )
    add(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="a job's request (partition=main time=2:00:00 gpus_per_node=8 nodes=2), over the site's file",
    )
    add("--wait", action="store_true", help="on Slurm: show the runs until all have ended")
