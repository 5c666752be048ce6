"""A suite: backbones to pretrain, and where to evaluate them, as one plan that goes on where it stopped.

    python -m bench.run --suite few-images --data-root DIR

A suite is a TOML file, `suites/NAME.toml` by its name or any other by its path:

    question = "..."                # what its numbers are to answer
    [[pretrain]]                    # as often as needed; {fields} are filled in from `each`
    name = "mae-{images}"           # of the backbone
    command = "--method mae ... --images {images}"          # of python -m pretrain.run
    each = [{ images = [1, 10], ... }]                      # all combinations of each table's lists
    [[evaluate]]                    # of the pretrained backbones and those named here
    backbones = ["vit_tiny_patch16_224"]
    tasks = ["classification/scenes"]
    protocols = ["frozen"]
    seeds = 3
"""

import dataclasses
import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError, unknown
from bench.plan import Request
from bench.results import digest

FOLDER = Path(__file__).parents[1] / "suites"
WEIGHTS = "backbone.safetensors"  # what pretrain.run leaves
INTERRUPTED = 130
KEYS: Mapping[str, Mapping[str, type]] = {
    "pretrain": {"name": str, "command": str, "each": list},
    "evaluate": {"backbones": list, "tasks": list, "protocols": list, "seeds": int},
}
NEEDED = {"pretrain": ("name", "command"), "evaluate": ("tasks", "protocols")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A backbone to make: its name, and the arguments of `python -m pretrain.run` but for --out."""

    name: str
    arguments: tuple[str, ...]

    def weights(self, work_dir: Path) -> Path:
        """The file that it ends in: a function of all that was asked for, so the next try finds it again."""
        return work_dir / "pretraining" / digest(self.arguments)[:8] / self.name / WEIGHTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A grid of runs: the suite's own backbones and `backbones`, by tasks, protocols and seeds."""

    tasks: tuple[str, ...]
    protocols: tuple[str, ...]
    backbones: tuple[str, ...] = ()
    seeds: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """What is pretrained, then what is evaluated, in this order."""

    name: str
    pretrainings: tuple[Pretraining, ...]
    evaluations: tuple[Evaluation, ...]


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
        evaluations=tuple(Evaluation(**table) for table in evaluations),
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
        if not isinstance(value, kinds[key]):
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
        yield Pretraining(name=name, arguments=tuple(shlex.split(command)))


def _combinations(each: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every way to take one value of each list, table by table."""
    for table in each:
        lists = [value if isinstance(value, list) else [value] for value in table.values()]
        for values in itertools.product(*lists):
            yield dict(zip(table, values, strict=True))


def requests(suite: Suite, common: Request) -> list[Request]:
    """What `bench.run` is asked for, with the backbones that are there already."""
    made = [p.weights(common.work_dir) for p in suite.pretrainings]
    there = tuple(str(weights) for weights in made if weights.is_file())
    return [
        dataclasses.replace(
            common,
            backbones=evaluation.backbones + there,
            tasks=evaluation.tasks,
            protocol=protocol,
            seeds=evaluation.seeds,
        )
        for evaluation in suite.evaluations
        for protocol in evaluation.protocols
    ]


def pretrain(
    wanted: Pretraining, work_dir: Path, data_root: Path | None, where: Sequence[str] = ()
) -> str | None:
    """Make a backbone, in a process of its own, unless it is there; return what went wrong, or None.

    `where` are further arguments of pretrain.run: with `--cluster slurm` it submits, and is back at once.
    """
    weights = wanted.weights(work_dir)
    if weights.is_file():
        return None
    root = ("--data-root", str(data_root)) if data_root else ()
    command = [sys.executable, "-m", "pretrain.run", *wanted.arguments, *root, *where]
    sys.stderr.write(f"pretraining {wanted.name}\n")
    status = subprocess.run([*command, "--out", str(weights.parent)], check=False).returncode
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return None if status == 0 else f"pretraining ended with exit status {status}, see above"
