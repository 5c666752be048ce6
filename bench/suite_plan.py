"""A suite's plan: which backbones are to be made, which runs there are, made or not, and what they will cost."""

import contextlib
import dataclasses
import itertools
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench import plan
from bench.errors import UserError
from bench.launch import Slot
from bench.plan import Request, Run
from bench.results import RunKey
from bench.suite import Evaluation, Pretraining, Suite

INTERRUPTED = 130


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """A run of a suite; `made` says whether its backbone is there, `minutes` what it takes, if that is known."""

    run: Run
    made: bool
    minutes: float | None


def listed(suite: Suite, common: Request) -> tuple[list[Pretraining], list[Listed]]:
    """The backbones that are to be made, and every run once: those of such backbones under their names.

    Raises UserError at the first name, file or data set that is wrong.
    """
    unmade = [p for p in suite.pretrainings if not p.weights(common.work_dir).is_file()]
    found: dict[RunKey, Listed] = {}
    for evaluation in suite.evaluations:
        for asked, own in _asked(suite, evaluation, common):
            for run, made in _runs(asked, own):
                known = Listed(run=run, made=made, minutes=evaluation.minutes)
                found.setdefault(run.key, known)
    return unmade, list(found.values())


def _asked(
    suite: Suite, evaluation: Evaluation, common: Request
) -> Iterator[tuple[Request, list[Pretraining]]]:
    """What `bench.run` is asked for, and the suite's own backbones that are to be in it."""
    seeds = range(evaluation.replicates) if evaluation.replicates else (None,)
    for protocol, seed in itertools.product(evaluation.protocols, seeds):
        own = [p for p in suite.pretrainings if evaluation.takes(p, seed)]
        yield (
            dataclasses.replace(
                common,
                backbones=evaluation.backbones,
                tasks=evaluation.tasks,
                protocol=protocol,
                first_seed=seed or 0,
                seeds=evaluation.seeds,
            ),
            own,
        )


def _runs(asked: Request, own: Sequence[Pretraining]) -> Iterator[tuple[Run, bool]]:
    """The runs, and whether their backbone is there."""
    files = {p: p.weights(asked.work_dir) for p in own}
    there = tuple(str(file) for file in files.values() if file.is_file())
    for run in plan.runs(dataclasses.replace(asked, backbones=asked.backbones + there)):
        yield run, True
    to_make = [p for p, file in files.items() if not file.is_file()]
    archs = tuple(dict.fromkeys(p.given("--arch", "") for p in to_make))
    for run in plan.runs(dataclasses.replace(asked, backbones=archs)) if archs else ():
        for p in to_make:
            if p.given("--arch", "") == run.backbone.arch:
                backbone = dataclasses.replace(run.backbone, name=p.name)
                yield dataclasses.replace(run, backbone=backbone), False


def told(unmade: Sequence[Pretraining]) -> str:
    """How many backbones are to be made, and the hours that the suite says; "" for none."""
    known = [p.minutes for p in unmade if p.minutes is not None]
    costs = [f"about {sum(known) / 60:.1f} hours"] if known else []
    if unknown := len(unmade) - len(known):
        costs.append(f"{unknown} of unknown cost")
    return f"{len(unmade)} backbones to pretrain: {' and '.join(costs)}\n" if unmade else ""


def pretrain(
    unmade: Sequence[Pretraining], common: Request, where: Sequence[str], slots: Sequence[Slot]
) -> None:
    """Make backbones, as many at a time as there are slots; say what went wrong with one, and go on.

    Each is a process of its own, on the GPUs of its slot (() leaves it all). `where` are further arguments
    of pretrain.run: with `--cluster slurm` it submits, and is back soon. Raises UserError if one was not
    submitted.
    """
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)

    def make(wanted: Pretraining) -> int:
        slot = free.get()
        try:
            return _pretrain(wanted, common, where, slot, quiet=len(slots) > 1)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as pool:
        statuses = dict(zip((p.name for p in unmade), pool.map(make, unmade), strict=True))
    wrong = [name for name, status in statuses.items() if status != 0]
    if wrong and where:
        raise UserError(
            f"{len(wrong)} of {len(unmade)} pretrainings were not submitted ({', '.join(wrong)}); why is said "
            "above. Put that right and give the same command again: nothing is submitted twice."
        )


def _pretrain(
    wanted: Pretraining, common: Request, where: Sequence[str], slot: Slot, *, quiet: bool
) -> int:
    """The exit status; what a quiet one says is in a file beside its weights."""
    out = wanted.weights(common.work_dir).parent
    root = ("--data-root", str(common.data_root)) if common.data_root else ()
    command = [sys.executable, "-m", "pretrain.run", *wanted.arguments, *root, *where]
    shown = {"CUDA_VISIBLE_DEVICES": ",".join(slot)} if slot else {}
    log = out / "log.txt"
    out.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"pretraining {wanted.name}{f', log {log}' if quiet else ''}\n")
    with log.open("a") if quiet else contextlib.nullcontext() as said:
        ended = subprocess.run(
            [*command, "--out", str(out)],
            env={**os.environ, **shown},
            stdout=said,
            stderr=said,
            check=False,
        )
    if ended.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if ended.returncode != 0:
        place = f"its log {log}" if quiet else "above"
        sys.stderr.write(
            f"{wanted.name}: pretraining ended with exit status {ended.returncode}, see {place}\n"
        )
    return ended.returncode
