"""One record per number: `Result`, in a `Store` on disk under its `RunKey`.

A record's path is its identity, so a number exists if its file exists:
`<root>/<family>/<dataset>/<backbone>@<weights8>/<digest8>-seed<k>.json`.
"""

import dataclasses
import functools
import glob
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from bench.errors import UserError
from bench.files import digest, write_atomic

SCHEMA = 3  # 1 had no curves, 2 no hash of itself

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A record, one field per JSON key. Metrics are percentages 0-100 or in SI units.

    `cost` is in seconds, bytes and device-hours; `metrics` may contain NaN (written as null). `curves` are
    loss terms by training iteration, or an analysis' values by head, layer or hidden fraction, to five digits.
    """

    schema: int = SCHEMA
    status: str  # "done" or "failed"
    error: str | None
    backbone: Json
    load_report: Json
    task: str
    task_version: int
    protocol: Json
    digest: str
    data: Json
    selection: Json
    seed: int
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    primary: str
    higher_is_better: bool
    cost: Json
    environment: Json
    git: Json
    started: str
    finished: str

    @property
    def key(self) -> "RunKey":
        """Return what identifies the record, and its place in a store."""
        return RunKey(
            task=self.task,
            backbone=self.backbone["name"],
            weights8=weights8(self.backbone),
            digest=self.digest,
            seed=self.seed,
        )

    def to_json(self) -> str:
        """Return indented JSON with each curve on one line and a final newline; NaN and infinity become null."""
        record = dataclasses.asdict(self)
        record["metrics"] = {k: v if math.isfinite(v) else None for k, v in self.metrics.items()}
        record["curves"] = {name: f"curve {name}" for name in self.curves}
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        for name, curve in self.curves.items():
            line = json.dumps([float(f"{value:.5g}") for value in curve], allow_nan=False)
            text = text.replace(json.dumps(f"curve {name}"), line)
        return _sealed(text.encode()).decode()

    @classmethod
    def from_json(cls, text: bytes) -> "Result":
        """Parse a record; raises UserError if it is malformed, edited by hand, or of a later schema."""
        record = _parsed(text)
        sealed = isinstance(record, dict) and record.get("schema") == SCHEMA
        if isinstance(record, dict):
            record.pop("sha256", None)
            record = _upgraded(record)
        if problem := _problem(record):
            raise UserError(f"not a record of schema {SCHEMA}: {problem}")
        if sealed and text != _sealed(text.rpartition(SEAL)[0] + CLOSING):
            raise UserError("its content does not match its sha256: it was edited by hand")
        if None in record["metrics"].values():
            nan = {k: math.nan if v is None else v for k, v in record["metrics"].items()}
            record["metrics"] = nan
        made = object.__new__(cls)
        vars(made).update(record)  # as __init__ does key by key, in a third of its time
        return made


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)  # a hundred thousand records in a quarter of json's time
    except orjson.JSONDecodeError:
        pass  # it rejects a lone surrogate of a file's name, which json accepts
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({error})") from None


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """Convert a record of an earlier schema to the current one."""
    if record.get("schema") == 1:
        record |= {"curves": {}}
    return record | {"schema": SCHEMA} if record.get("schema") in (1, 2) else record


CLOSING = b"\n}\n"
SEAL = b',\n "sha256": "'


def _sealed(text: bytes) -> bytes:
    """Add the hash of a record's JSON to it, as the last key."""
    seal = hashlib.sha256(text).hexdigest().encode()
    return text.removesuffix(CLOSING) + SEAL + seal + b'"' + CLOSING


def _problem(record: object) -> str:
    """Return why a parsed file is not a record; "" for a record."""
    if not isinstance(record, dict):
        return "not a JSON object"
    if record.get("schema") != SCHEMA:
        later = ", which is later than this version supports" if str(record.get("schema")) > str(SCHEMA) else ""
        return f"schema {record.get('schema')}{later}"
    fields = _fields()
    if differ := sorted(fields.keys() ^ record.keys()):
        return f"keys missing or unknown: {', '.join(differ)}"
    wrong = [name for name, kinds in fields.items() if type(record[name]) not in kinds]
    wrong += [f"metrics.{k}" for k, v in _items(record["metrics"]) if type(v) not in NUMBER]
    wrong += [f"{k}.name" for k in ("backbone", "protocol", "data") if not _is_named(record[k])]
    return f"unfit values of {', '.join(wrong)}" if wrong else ""


NUMBER = (float, int, type(None))  # a metric's types; bool is not one


@functools.cache
def _fields() -> dict[str, tuple[type, ...]]:
    """Return a record's keys with the types that JSON gives their values."""
    kinds: dict[Any, Any] = {str: (str,), int: (int,), bool: (bool,), str | None: (str, type(None))}
    return {field.name: kinds.get(field.type, (dict,)) for field in dataclasses.fields(Result)}


def _items(value: object) -> list[tuple[str, object]]:
    return list(value.items()) if isinstance(value, dict) else []


def _is_named(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def weights8(backbone: Json) -> str:
    """Return the part of a record's path that distinguishes two backbones of one name, from the record's `backbone`."""
    if backbone.get("method") == "baseline":
        return "baseline"
    sha256, mean, std, part, tag = map(backbone.get, ("weights_sha256", "mean", "std", "part", "tag"))
    loading = (part, tag if sha256 else "", *(backbone.get("allow_partial") or ()))
    if any(loading):
        return digest([sha256, mean, std, *loading])[:8]
    if mean or std:
        return digest([sha256, mean, std])[:8]
    return sha256[:8] if sha256 else "scratch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunKey:
    """What identifies a number: task, backbone with its weights, digest and seed."""

    task: str
    backbone: str
    weights8: str
    digest: str
    seed: int

    @property
    def place(self) -> str:
        """Return the record's path under the store's root, as text."""
        name = self.backbone.replace("/", "--")
        return f"{self.task}/{name}@{self.weights8}/{self.digest[:8]}-seed{self.seed}.json"

    @property
    def path(self) -> Path:
        """Return the record's path under the store's root."""
        return Path(self.place)


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder of records."""

    root: Path

    def load(self, key: RunKey) -> Result | None:
        """Return the record of `key`, or None if there is none; raises UserError if it is malformed."""
        path = self.root / key.path
        return self.read(path) if path.is_file() else None

    def read(self, path: Path) -> Result:
        """Read one record; raises UserError that names the file."""
        try:
            return Result.from_json(path.read_bytes())
        except (UserError, OSError) as error:
            raise UserError(
                f"The record {path} cannot be read: {error}. Delete it and run again, or restore it."
            ) from None

    def write(self, key: RunKey, result: Result) -> Path:
        """Write a record atomically and return its path."""
        path = self.root / key.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, result.to_json())
        return path

    def results(self) -> Iterator[Result]:
        """Yield every record, sorted by path; raises UserError at a malformed one."""
        for path in self.paths():
            yield self.read(path)

    def paths(self, task: str = "*/*", ending: str = ".json") -> list[Path]:
        """Return every record's path, of one `task` or all, sorted; another `ending` gives the sidecar files' paths."""
        # Strings: a hundred thousand of them are listed and sorted in a tenth of the time of paths.
        below = glob.glob(f"{task}/*@*/*-seed*{ending}", root_dir=self.root)  # noqa: PTH207
        return [self.root / path for path in sorted(below)]


SIDECARS = "beside"  # in a run's folder: files to copy next to its record


def sidecar(record: Path, name: str) -> Path:
    """Return the path of a file that belongs to a record, in the same folder."""
    return record.with_name(f"{record.stem}.{name}")
