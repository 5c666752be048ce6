"""A suite: backbones to pretrain and the tasks to evaluate them on, as one plan that can be resumed.

    python -m bench.run --suite few-images --data-root DIR

A suite is a TOML file, `suites/NAME.toml` by its name or any other by its path:

    question = "..."                # the question that its numbers answer
    [[pretrain]]                    # repeated as needed; {fields} are filled in from `each`
    name = "mae-{images}"           # of the backbone
    command = "--method mae ... --images {images}"          # arguments of python -m pretrain.run
    each = [{ images = [1, 10], minutes = 4 }]              # all combinations of each table's lists
    minutes = 4                     # measured time of one (here or in `each`); the plan adds them up
    needs = "FOLDER"                # omitted, with a message, if the data root has no such folder
    [[evaluate]]                    # the suite's own backbones and those named here
    backbones = ["vit_tiny_patch16_224"]
    pretrained = ["mae-*"]          # patterns that select the suite's own (default all)
    tasks = ["classification/scenes"]
    protocols = ["frozen"]
    seeds = 3                       # or replicates = 3: backbones pretrained with --seed k at seed k alone
    minutes = 1.5
    needs = "FOLDER"
"""

import contextlib
import dataclasses
import fnmatch
import itertools
import os
import queue
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.backbones.backbone import Backbone
from bench.errors import UserError, unknown
from bench.files import digest
from bench.records import RunKey
from bench.runs import plan
from bench.runs.launch import Slot
from bench.runs.plan import Entries, Request, Run

FOLDER = Path(__file__).parents[2] / "suites"
WEIGHTS = "backbone.safetensors"  # what pretrain.run leaves
SMOKE = ("--epochs", "1")  # of a pretraining
KEYS: Mapping[str, Mapping[str, type]] = {
    "pretrain": {"name": str, "command": str, "each": list, "minutes": float, "needs": str},
    "evaluate": {
        "backbones": list,
        "pretrained": list,
        "tasks": list,
        "protocols": list,
        "seeds": int,
        "replicates": int,
        "minutes": float,
        "needs": str,
    },
}
NEEDED = {"pretrain": ("name", "command"), "evaluate": ("tasks", "protocols")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A backbone to pretrain.

    Args:
        arguments: of `python -m pretrain.run`, without --out.
        minutes: the expected time, if known.
        needs: a folder that the data root must have.
    """

    name: str
    arguments: tuple[str, ...]
    minutes: float | None = None
    needs: str = ""

    def weights(self, work_dir: Path) -> Path:
        """Return the path of its weights; it depends on all arguments, so a later attempt finds it again."""
        return work_dir / "pretraining" / digest(self.arguments)[:8] / self.name / WEIGHTS

    def value_of(self, option: str, default: str) -> str:
        """Return the value of an option; as in argparse, the last one counts."""
        return dict(itertools.pairwise(self.arguments)).get(option, default)

    @property
    def seed(self) -> int:
        """Return the seed of the pretraining."""
        return int(self.value_of("--seed", "0"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A grid of runs: backbones by tasks, protocols and seeds.

    Args:
        backbones: further ones than the suite's own.
        pretrained: patterns that select the suite's own backbones by name.
        seeds: every backbone is evaluated with seeds 0 to seeds - 1.
        replicates: if not 0, the seeds are 0 to replicates - 1, and a backbone pretrained with `--seed k` is
            evaluated with seed k only, so that two seeds also differ in the pretraining.
        minutes: the expected time of a run, if known.
        needs: a folder that the data root must have.
    """

    tasks: tuple[str, ...]
    protocols: tuple[str, ...]
    backbones: tuple[str, ...] = ()
    pretrained: tuple[str, ...] = ("*",)
    seeds: int = 1
    replicates: int = 0
    minutes: float | None = None
    needs: str = ""

    def takes(self, made: Pretraining, seed: int | None) -> bool:
        """Return whether it includes a backbone of the suite (with replicates: at this seed)."""
        named = any(fnmatch.fnmatchcase(made.name, pattern) for pattern in self.pretrained)
        return named and seed in (None, made.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """Pretrainings, and evaluations that follow them."""

    name: str
    pretrainings: tuple[Pretraining, ...]
    evaluations: tuple[Evaluation, ...]

    def smoke(self) -> "Suite":
        """Return one epoch of each pretraining of seed 0 and one evaluation seed, to check that the suite runs."""
        return dataclasses.replace(
            self,
            pretrainings=tuple(
                dataclasses.replace(p, arguments=(*p.arguments, *SMOKE), minutes=None)
                for p in self.pretrainings
                if p.seed == 0
            ),
            evaluations=tuple(
                dataclasses.replace(e, seeds=1, replicates=min(e.replicates, 1), minutes=None) for e in self.evaluations
            ),
        )

    def possible(self, data_root: Path | None) -> tuple["Suite", str]:
        """Return the suite without the parts whose folder the data root lacks, and a message about those."""
        needs = {p.needs for p in self.pretrainings} | {e.needs for e in self.evaluations}
        lacking = {name for name in needs if name and not (data_root and (data_root / name).is_dir())}
        possible = dataclasses.replace(
            self,
            pretrainings=tuple(p for p in self.pretrainings if p.needs not in lacking),
            evaluations=tuple(e for e in self.evaluations if e.needs not in lacking),
        )
        pretrainings = len(self.pretrainings) - len(possible.pretrainings)
        return possible, "".join(
            f"LEFT OUT: {pretrainings} pretrainings and their evaluations need the folder {name} below the data root "
            f"(--data-root DIR or BENCH_DATA=DIR), which does not exist.\n"
            for name in sorted(lacking)
        )


def load(name: str) -> Suite:
    """Read a suite by its name or path; raises UserError if there is none or its file is wrong."""
    known = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    path = Path(name) if name.endswith(".toml") else known.get(name)
    if path is None or not path.is_file():
        raise unknown("suite", name, known)
    tables = _tables(path)
    evaluations: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        for table in tables["evaluate"]
    ]
    return Suite(
        name=path.stem,
        pretrainings=tuple(p for table in tables["pretrain"] for p in _pretrainings(path, table)),
        evaluations=tuple(_evaluation(path, table) for table in evaluations),
    )


def _tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the file's two lists of tables, after checking every key."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The suite {path} cannot be read: {error}. Fix the file.") from None
    for key in content.keys() - {"question"}:
        if key not in KEYS:
            raise unknown(f"key of the suite {path}", key, ["question", *KEYS])
    for kind, kinds in KEYS.items():
        for table in content.setdefault(kind, []):
            _check(path, kind, kinds, table)
    return content


def _check(path: Path, kind: str, kinds: Mapping[str, type], table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if key not in kinds:
            raise unknown(f"key of [[{kind}]] in the suite {path}", key, kinds)
        if not isinstance(value, (float, int) if kinds[key] is float else kinds[key]):
            raise UserError(
                f"{key} of [[{kind}]] in the suite {path} is {value!r}; it must be a {kinds[key].__name__}."
            )
    if missing := [key for key in NEEDED[kind] if not table.get(key)]:
        raise UserError(f"[[{kind}]] in the suite {path} lacks {' and '.join(missing)}. Add it.")


def _pretrainings(path: Path, table: Mapping[str, Any]) -> Iterator[Pretraining]:
    for fields in _combinations(table.get("each", [{}])):
        try:
            name, command = (table[key].format(**fields) for key in ("name", "command"))
        except (KeyError, IndexError) as error:
            raise UserError(
                f"[[pretrain]] {table['name']} in the suite {path} has a field {{{error.args[0]}}} that its `each` "
                f"does not give. Add it there."
            ) from None
        yield Pretraining(
            name=name,
            arguments=tuple(shlex.split(command)),
            minutes=fields.get("minutes", table.get("minutes")),
            needs=table.get("needs", ""),
        )


def _evaluation(path: Path, table: dict[str, Any]) -> Evaluation:
    if "seeds" in table and "replicates" in table:
        raise UserError(
            f"[[evaluate]] in the suite {path} has both seeds and replicates. Give `seeds` to evaluate every backbone "
            f"with each seed, or `replicates` to evaluate each with the seed of its pretraining only."
        )
    return Evaluation(**table)


def _combinations(each: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of one value of each list, table by table."""
    for table in each:
        lists = [value if isinstance(value, list) else [value] for value in table.values()]
        for values in itertools.product(*lists):
            yield dict(zip(table, values, strict=True))


# The plan of a suite: the backbones to pretrain, all runs, and their cost.

INTERRUPTED = 130


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """A run of a suite.

    Args:
        made: whether its backbone exists.
        minutes: the expected time of the run, if known.
    """

    run: Run
    made: bool
    minutes: float | None


def listed(suite: Suite, common: Request) -> tuple[list[Pretraining], list[Listed]]:
    """Return the backbones to pretrain, and every run once; a run of a missing backbone has its future name.

    Raises UserError at the first name, file or data set that is wrong.
    """
    unmade = [p for p in suite.pretrainings if not p.weights(common.work_dir).is_file()]
    entries = plan.include(common.include)
    found: dict[RunKey, Listed] = {}
    for evaluation in suite.evaluations:
        for protocol in evaluation.protocols:
            request = dataclasses.replace(
                common,
                backbones=evaluation.backbones,
                tasks=evaluation.tasks,
                protocol=protocol,
                seeds=evaluation.seeds,
            )
            for run, made in _runs(suite, evaluation, request, entries):
                found.setdefault(run.key, Listed(run=run, made=made, minutes=evaluation.minutes))
    return unmade, list(found.values())


def _runs(suite: Suite, evaluation: Evaluation, request: Request, entries: Entries) -> Iterator[tuple[Run, bool]]:
    """Yield the runs of one protocol, each with whether its backbone exists."""
    targets = plan.targets(request, entries)

    def backbone(name: str) -> Backbone:
        return plan.backbone(name, request, entries, targets)

    given = [backbone(name) for name in request.backbones]
    for seed in range(evaluation.replicates) if evaluation.replicates else (None,):
        seeded = dataclasses.replace(request, first_seed=seed or 0)
        own = {p: p.weights(request.work_dir) for p in suite.pretrainings if evaluation.takes(p, seed)}
        made = [backbone(str(file)) for file in own.values() if file.is_file()]
        for run in plan.grid(seeded, targets, [*given, *made]):
            yield run, True
        missing = [p for p, file in own.items() if not file.is_file()]
        future = [dataclasses.replace(backbone(p.value_of("--arch", "")), name=p.name) for p in missing]
        for run in plan.grid(seeded, targets, future):
            yield run, False


def pretraining_cost(unmade: Sequence[Pretraining]) -> str:
    """Return the number of backbones to pretrain and the hours that the suite states; "" if there are none."""
    known = [p.minutes for p in unmade if p.minutes is not None]
    costs = [f"about {sum(known) / 60:.1f} hours"] if known else []
    if unknown := len(unmade) - len(known):
        costs.append(f"{unknown} of unknown cost")
    return f"{len(unmade)} backbones to pretrain: {' and '.join(costs)}\n" if unmade else ""


def pretrain(unmade: Sequence[Pretraining], common: Request, where: Sequence[str], slots: Sequence[Slot]) -> None:
    """Pretrain backbones, one process each, as many at a time as there are slots; a failure is only reported.

    Args:
        where: further arguments of pretrain.run; with `--cluster slurm` it submits a job and returns.
        slots: the GPUs of each process; () does not restrict them.

    Raises UserError if a pretraining was not submitted.
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
            f"{len(wrong)} of {len(unmade)} pretrainings were not submitted ({', '.join(wrong)}); the reason is "
            "above. Fix it and run the same command again: nothing is submitted twice."
        )


def _pretrain(wanted: Pretraining, common: Request, where: Sequence[str], slot: Slot, *, quiet: bool) -> int:
    """Return the exit status; the output of a quiet one goes to a log file next to its weights."""
    out = wanted.weights(common.work_dir).parent
    root = ("--data-root", str(common.data_root)) if common.data_root else ()
    command = [sys.executable, "-m", "pretrain.run", *wanted.arguments, *root, *where]
    shown = {"CUDA_VISIBLE_DEVICES": ",".join(slot)} if slot else {}
    log = out / "log.txt"
    out.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"pretraining {wanted.name}{f', log {log}' if quiet else ''}\n")
    with log.open("a") if quiet else contextlib.nullcontext() as output:
        ended = subprocess.run(
            [*command, "--out", str(out)], env={**os.environ, **shown}, stdout=output, stderr=output, check=False
        )
    if ended.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if ended.returncode != 0:
        place = f"its log {log}" if quiet else "above"
        sys.stderr.write(f"{wanted.name}: pretraining ended with exit status {ended.returncode}, see {place}\n")
    return ended.returncode
