"""A suite: backbones to pretrain, and where to evaluate them, as one plan that goes on where it stopped.

    python -m bench.run --suite few-images --data-root DIR

A suite is a TOML file, `suites/NAME.toml` by its name or any other by its path:

    question = "..."                # what its numbers are to answer
    [[pretrain]]                    # as often as needed; {fields} are filled in from `each`
    name = "mae-{images}"           # of the backbone
    command = "--method mae ... --images {images}"          # of python -m pretrain.run
    each = [{ images = [1, 10], minutes = 4 }]              # all combinations of each table's lists
    minutes = 4                     # that one takes, measured (here or in `each`); the plan adds them up
    needs = "FOLDER"                # left out, and that is said, where the data root has none
    [[evaluate]]                    # of the pretrained backbones and those named here
    backbones = ["vit_tiny_patch16_224"]
    pretrained = ["mae-*"]          # which of the suite's own (default all)
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

from bench.errors import UserError, unknown
from bench.files import digest
from bench.records import RunKey
from bench.runs import plan
from bench.runs.launch import Slot
from bench.runs.plan import Request, Run

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
    """A backbone to make.

    Args:
        arguments: of `python -m pretrain.run`, but for --out.
        minutes: what it takes, where that is known.
        needs: a folder of the data root.
    """

    name: str
    arguments: tuple[str, ...]
    minutes: float | None = None
    needs: str = ""

    def weights(self, work_dir: Path) -> Path:
        """The file that it ends in: a function of all that was asked for, so the next try finds it again."""
        return work_dir / "pretraining" / digest(self.arguments)[:8] / self.name / WEIGHTS

    def given(self, option: str, default: str) -> str:
        """The value of an option; the last counts, as for argparse."""
        return dict(itertools.pairwise(self.arguments)).get(option, default)

    @property
    def seed(self) -> int:
        """That of its weights, order and masks."""
        return int(self.given("--seed", "0"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A grid of runs: backbones by tasks, protocols and seeds.

    Args:
        backbones: beside the suite's own.
        pretrained: patterns of the names of the suite's own.
        seeds: 0 to seeds - 1, for every backbone.
        replicates: if not 0, seeds 0 to replicates - 1, of which a backbone pretrained with `--seed k` has k
            alone: what differs between two seeds is then the pretraining as well.
        minutes: what a run takes, where that is known.
        needs: a folder of the data root.
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
        """Whether it asks for a backbone of the suite; with replicates, at this seed."""
        named = any(fnmatch.fnmatchcase(made.name, pattern) for pattern in self.pretrained)
        return named and seed in (None, made.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """What is pretrained, then what is evaluated, in this order."""

    name: str
    pretrainings: tuple[Pretraining, ...]
    evaluations: tuple[Evaluation, ...]

    def smoke(self) -> "Suite":
        """An epoch of each pretraining of seed 0, and one seed: shows that it runs, means nothing."""
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
        """The suite without what needs a folder that the data root does not have; and what to tell of that."""
        needs = {p.needs for p in self.pretrainings} | {e.needs for e in self.evaluations}
        lacking = {name for name in needs if name and not (data_root and (data_root / name).is_dir())}
        kept = dataclasses.replace(
            self,
            pretrainings=tuple(p for p in self.pretrainings if p.needs not in lacking),
            evaluations=tuple(e for e in self.evaluations if e.needs not in lacking),
        )
        pretrainings = len(self.pretrainings) - len(kept.pretrainings)
        return kept, "".join(
            f"LEFT OUT: {pretrainings} pretrainings and what is evaluated of them need the folder {name} below the "
            f"data root (--data-root DIR or BENCH_DATA=DIR), which is not there.\n"
            for name in sorted(lacking)
        )


def load(name: str) -> Suite:
    """Read a suite by its name or path; raises UserError at what is no suite."""
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
    """The file's two lists of tables, checked key by key."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The suite {path} cannot be read: {error}. Mend the file.") from None
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
                f"{key} of [[{kind}]] in the suite {path} is {value!r}, and a {kinds[key].__name__} is expected."
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
            f"[[evaluate]] in the suite {path} has both seeds and replicates. Give seeds for every backbone at each of "
            f"them, or replicates for each at the seed that it was pretrained with."
        )
    return Evaluation(**table)


def _combinations(each: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every way to take one value of each list, table by table."""
    for table in each:
        lists = [value if isinstance(value, list) else [value] for value in table.values()]
        for values in itertools.product(*lists):
            yield dict(zip(table, values, strict=True))


# A suite's plan: which backbones are to be made, which runs there are, made or not, and what they will cost.

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


def _asked(suite: Suite, evaluation: Evaluation, common: Request) -> Iterator[tuple[Request, list[Pretraining]]]:
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


def pretrain(unmade: Sequence[Pretraining], common: Request, where: Sequence[str], slots: Sequence[Slot]) -> None:
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


def _pretrain(wanted: Pretraining, common: Request, where: Sequence[str], slot: Slot, *, quiet: bool) -> int:
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
            [*command, "--out", str(out)], env={**os.environ, **shown}, stdout=said, stderr=said, check=False
        )
    if ended.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if ended.returncode != 0:
        place = f"its log {log}" if quiet else "above"
        sys.stderr.write(f"{wanted.name}: pretraining ended with exit status {ended.returncode}, see {place}\n")
    return ended.returncode
