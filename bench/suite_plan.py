"""A suite's plan: which backbones are to be made, which runs there are, made or not, and what they will cost."""

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench import plan
from bench.errors import UserError
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


def pretrain(unmade: Sequence[Pretraining], common: Request, where: Sequence[str]) -> None:
    """Make backbones one after the other, each in a process of its own; say what went wrong with one, and go on.

    `where` are further arguments of pretrain.run: with `--cluster slurm` it submits, and is back soon.
    Raises UserError if one was not submitted.
    """
    root = ("--data-root", str(common.data_root)) if common.data_root else ()
    wrong = []
    for wanted in unmade:
        out = wanted.weights(common.work_dir).parent
        command = [sys.executable, "-m", "pretrain.run", *wanted.arguments, *root, *where]
        sys.stderr.write(f"pretraining {wanted.name}\n")
        status = subprocess.run([*command, "--out", str(out)], check=False).returncode
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status != 0:
            sys.stderr.write(
                f"{wanted.name}: pretraining ended with exit status {status}, see above\n"
            )
            wrong.append(wanted.name)
    if wrong and where:
        raise UserError(
            f"{len(wrong)} of {len(unmade)} pretrainings were not submitted ({', '.join(wrong)}); why is said "
            "above. Put that right and give the same command again: nothing is submitted twice."
        )
