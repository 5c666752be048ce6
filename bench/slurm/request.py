"""What a job requests from Slurm: the site's defaults from a small file, changed on the command line.

    {"partition": "main", "account": "vision", "time": "8:00:00", "gpus_per_node": 1, "cpus_per_task": 8}

is the file $BENCH_SLURM, else ~/.config/bench/slurm.json; `--slurm time=2:00:00 mem=32G` overrides it for one command.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError

DAY = 24 * 60  # minutes
COUNTS = ("nodes", "gpus_per_node", "cpus_per_task", "array_parallelism")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """One job's request, named as in sbatch; None means the site's own default.

    Args:
        time: minutes after which Slurm stops the job; it is then requeued and resumes.
        gpus_per_node: GPUs, each with its own process; 0 means one process per node, on its CPUs.
        nodes: number of nodes; all their processes share the run.
        array_parallelism: the number of runs of one command that may run at once, over all its arrays.
        options: further long options of sbatch: {"qos": "long", "exclude": "n3"}.
    """

    partition: str | None = None
    account: str | None = None
    time: int = DAY
    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int | None = None
    mem: str | None = None
    constraint: str | None = None
    array_parallelism: int = 256
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def tasks_per_node(self) -> int:
        """Return the number of processes of a run on each node."""
        return max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        """Return the number of processes that share a run."""
        return self.nodes * self.tasks_per_node

    @property
    def signal_delay(self) -> int:
        """Return how many seconds before its time limit a job is signalled; Slurm checks every 30 s."""
        return min(120, 60 * self.time // 3)

    def flags(self) -> dict[str, str]:
        """Return sbatch's long options, without those that depend on the jobs."""
        asked = {
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "gpus-per-node": self.gpus_per_node or None,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.mem,
            "constraint": self.constraint,
            **self.options,
        }
        return {name: str(value) for name, value in asked.items() if value is not None}

    def __str__(self) -> str:
        """Return one line, in the syntax of the command line."""
        return " ".join(f"{name}={value}" for name, value in self.flags().items())


def site_file() -> Path:
    """Return the path of the site's defaults."""
    return Path(os.environ.get("BENCH_SLURM", "~/.config/bench/slurm.json")).expanduser()


def resources(words: Iterable[str]) -> Resources:
    """Return the site's defaults, overridden by `key=value` words; raises UserError for invalid ones."""
    given = dict(_pair(word) for word in words)
    merged = {**_site(), **given}
    names = {field.name for field in dataclasses.fields(Resources)} - {"options"}
    known = {name: _value(name, merged[name]) for name in names & merged.keys()}
    options = {name.replace("_", "-"): str(v) for name, v in merged.items() if name not in names}
    return Resources(**known, options=options)


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise UserError(
            f"--slurm {word}: give key=value, such as partition=main, time=2:00:00, gpus_per_node=4, nodes=2, "
            f"mem=32G, constraint=a100, array_parallelism=16, or any long option of sbatch (qos=long)."
        )
    return name.replace("-", "_"), value


def _site() -> dict[str, Any]:
    path = site_file()
    if not path.is_file():
        if "BENCH_SLURM" in os.environ:
            raise UserError(
                f"BENCH_SLURM={path} is not a file. Set it to a JSON file with the site's defaults for --slurm, or "
                f"unset it."
            )
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The site's Slurm defaults {path} cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise UserError(f'The site\'s Slurm defaults {path} are not a JSON object such as {{"partition": "main"}}.')
    return {name.replace("-", "_"): value for name, value in found.items()}


def _value(name: str, value: Any) -> Any:
    """Check one of the known keys; sbatch checks the others."""
    if name == "time":
        found = minutes(str(value))
        if not found:
            raise UserError(f"--slurm time={value}: give minutes, hours:minutes:seconds or days-hours:minutes:seconds.")
        return found
    if name not in COUNTS:
        return str(value)
    least = 0 if name == "gpus_per_node" else 1
    if not str(value).isdecimal() or int(value) < least:
        raise UserError(f"--slurm {name}={value}: give a whole number of at least {least}.")
    return int(value)


def minutes(text: str) -> int | None:
    """Return a time in one of Slurm's notations as minutes, rounded up; None for "infinite" and other text."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(p.isdecimal() for p in (*parts, *([days] if dash else []))) or len(parts) > 3:
        return None
    numbers = [int(p) for p in parts]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, mins, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, mins, seconds = numbers
    else:  # minutes[:seconds]
        hours, (mins, seconds) = 0, (*numbers, 0)[:2]
    return int(days or 0) * DAY + hours * 60 + mins + math.ceil(seconds / 60)
