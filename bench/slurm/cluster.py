"""The cluster's partitions and nodes, and checks of a request before anything is submitted."""

import dataclasses
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.errors import UserError, unknown
from bench.slurm.request import Resources, minutes

TIMEOUT = 60  # seconds for a command of Slurm
SRUN_WAIT = 10  # seconds within which a free node must be found to look at the folders from
UNITS = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeKind:
    """Identical nodes of one partition. `memory` is in MB; `minutes` is the time limit, None without one."""

    partition: str
    default: bool
    up: bool
    minutes: int | None
    nodes: int
    cpus: int
    memory: int
    gpus: int
    features: frozenset[str]


def ask(*words: str) -> str:
    """Return the output of a Slurm command; raises UserError with its message if it fails."""
    if shutil.which(words[0]) is None:
        raise UserError(
            f"Slurm is not on this machine: the command {words[0]} is not found. Use a login node of the cluster, or "
            f"--cluster inline or local to run here."
        )
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"exit code {error.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"no answer within {TIMEOUT} s"
    raise UserError(f"Slurm refused '{words[0]}': {reason}. Check that sinfo answers, and correct the request.")


def kinds() -> list[NodeKind]:
    """Return the kinds of nodes of all partitions."""
    lines = ask("sinfo", "-h", "-e", "-o", "%P|%a|%l|%D|%c|%m|%G|%f").splitlines()
    return [_kind(line) for line in lines]


def _kind(line: str) -> NodeKind:
    name, available, limit, nodes, cpus, memory, gres, features = line.split("|")
    return NodeKind(
        partition=name.rstrip("*"),
        default=name.endswith("*"),
        up=available == "up",
        minutes=minutes(limit),
        nodes=int(nodes),
        cpus=int(cpus.rstrip("+")),
        memory=int(memory.rstrip("+")),
        gpus=sum(int(n) for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres)),
        features=frozenset(features.split(",")),
    )


def max_array_size() -> int:
    """Return the number of jobs that an array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.M)
    return int(found[1]) if found else 1001  # Slurm's own default


def check(resources: Resources) -> None:
    """Raise UserError if no node could ever run the request."""
    for kinds_of_one in _partitions(resources, kinds()):
        _check_partition(resources, kinds_of_one)
    # Only sbatch can check accounts, quality of service and further options. This submits nothing.
    flags = [f"--{name}={value}" for name, value in resources.flags().items()]
    ask("sbatch", "--test-only", *flags, "--wrap=true")


def _partitions(resources: Resources, known: Sequence[NodeKind]) -> list[list[NodeKind]]:
    """Return the kinds of nodes of each requested partition."""
    names = {kind.partition for kind in known}
    default = [kind.partition for kind in known if kind.default]
    wanted = resources.partition.split(",") if resources.partition else default[:1]
    if not wanted:
        raise UserError(
            f"This cluster has no default partition. Give one with --slurm partition=NAME: {', '.join(sorted(names))}."
        )
    for name in wanted:
        if name not in names:
            raise unknown("Slurm partition", name, names)
    return [[kind for kind in known if kind.partition == name] for name in wanted]


def _check_partition(resources: Resources, there: Sequence[NodeKind]) -> None:
    name, limit = there[0].partition, there[0].minutes
    if not there[0].up:
        raise UserError(f"The partition {name} is not up. Give another with --slurm partition=NAME.")
    if limit is not None and resources.time > limit:
        raise UserError(
            f"--slurm time={resources.time}: the partition {name} lets a job run for {limit} minutes at most. Give "
            f"time={limit} or less (a run that reaches its limit resumes in the next job), or another partition."
        )
    fitting = sum(kind.nodes for kind in there if _fits(resources, kind))
    if fitting < resources.nodes:
        has = "; ".join(
            f"{k.nodes} with {k.cpus} CPUs, {k.memory} MB, {k.gpus} GPUs"
            + (f", {','.join(sorted(k.features))}" if k.features != {"(null)"} else "")
            for k in there
        )
        raise UserError(
            f"--slurm {resources}: {fitting} nodes of the partition {name} can run this, but {resources.nodes} are "
            f"requested; the job would wait for ever. The partition has {has}. Request less, or give another partition."
        )


def _fits(resources: Resources, kind: NodeKind) -> bool:
    wanted = set(re.split(r"[&|,]", resources.constraint or "")) - {""}
    plain = all(re.fullmatch(r"[\w.-]+", word) for word in wanted)  # else sbatch checks it
    featured = wanted <= kind.features if "|" not in (resources.constraint or "") else wanted & kind.features
    return (
        resources.gpus_per_node <= kind.gpus
        and megabytes(resources.mem) <= kind.memory
        and (resources.cpus_per_task or 1) * resources.tasks_per_node <= kind.cpus
        and bool(not wanted or not plain or featured)
    )


def megabytes(mem: str | None) -> float:
    """Return sbatch's --mem in MB; 0 if there is none or only sbatch understands it."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", mem or "", re.I)
    return float(found[1]) * UNITS[found[2].upper() or "M"] if found else 0.0


def check_shared(resources: Resources, written: Iterable[Path], read: Iterable[Path]) -> str | None:
    """Check from a node that the paths exist there; raises UserError if one does not.

    Returns the reason if it could not be checked, such as no free node. A job whose log folder does not exist on its
    node would end without any message.
    """
    tokens = [folder / f".seen-{uuid.uuid4().hex[:12]}" for folder in written]
    paths = [*tokens, *read, Path(sys.executable)]
    try:
        for token in tokens:
            token.parent.mkdir(parents=True, exist_ok=True)
            token.touch()
        missing = _missing_there(resources, paths)
    finally:
        for token in tokens:
            token.unlink(missing_ok=True)
    if isinstance(missing, str):
        return missing
    if missing:
        path = missing[0].parent if missing[0] in tokens else missing[0]
        raise UserError(
            f"{path} is not shared with the nodes: a node of the cluster does not see it. Nothing was "
            f"submitted. Give a path on the cluster's shared file system (--work-dir, --results, --data-root), or "
            f"install the project there."
        )
    return None


def _missing_there(resources: Resources, paths: Sequence[Path]) -> list[Path] | str:
    """Return the paths that a node does not have, or the reason why it could not be checked."""
    asked = {k: v for k, v in resources.flags().items() if k in ("partition", "account", "constraint", "qos")}
    script = 'for p in "$@"; do [ -e "$p" ] || echo "$p"; done; echo seen'
    words = [f"--{name}={value}" for name, value in asked.items()]
    command = ["srun", "--quiet", f"--immediate={SRUN_WAIT}", "--nodes=1", "--ntasks=1", "--time=1"]
    try:
        ended = subprocess.run(
            [*command, *words, "--chdir=/", "--job-name=bench-look", "sh", "-c", script, "sh", *map(str, paths)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"no node answered within {TIMEOUT} s"
    lines = ended.stdout.splitlines()
    if "seen" not in lines:
        return " ".join(ended.stderr.split()) or f"srun ended with {ended.returncode}"
    return [Path(line) for line in lines if line != "seen"]
