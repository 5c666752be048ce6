"""A store of records into standings: task by task, on several cores where there are many."""

import dataclasses
import functools
import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.results import Json, Result, Store
from leaderboards import cores
from leaderboards.standings import Section, sections

MANY = 2000  # backbones in tasks, from which on other processes pay
SHOWN = ("device", "device_hours", "images_per_second", "data_wait")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What a store holds.

    Args:
        records: their number.
        broken: a paragraph for each record that was left out.
        pictures: the images that lie beside records, `<record>*.png`, sorted, each with its record.
    """

    standings: list[Section]
    records: int
    broken: list[str]
    pictures: dict[Path, Result]


def read(root: Path) -> Reading:
    """Read a store; raises UserError where there is none."""
    if not root.is_dir():
        raise UserError(
            f"There is no results folder {root}. Give one that python -m bench.run has written, "
            f"with --results DIR; its own default is results/ in the current folder."
        )
    tasks = sorted(task.rstrip("/") for task in glob.glob("*/*/", root_dir=root))  # noqa: PTH207
    jobs = [functools.partial(read_task, Store(root), task) for task in tasks]
    backbones = sum(len(os.listdir(root / task)) for task in tasks)  # noqa: PTH208
    found = cores.each(jobs, alone=backbones < MANY)
    pictures = [one for reading in found for one in reading.pictures.items()]
    return Reading(
        standings=[section for reading in found for section in reading.standings],
        records=sum(reading.records for reading in found),
        broken=[message for reading in found for message in reading.broken],
        pictures=dict(sorted(pictures, key=lambda picture: str(picture[0]))),
    )


def read_task(store: Store, task: str) -> Reading:
    """Read the records of one task."""
    results, broken, shared = dict[Path, Result](), [], dict[Any, Any]()
    files = store.paths(task, "")  # records and pictures by one look at each folder
    for path in files:
        if path.name.endswith(".json"):
            try:
                results[path] = _lean(_in_place(store.read(path), path), path.parent.name, shared)
            except UserError as error:
                broken.append(f"Left out: {error}")
    return Reading(
        standings=sections(results.values()),
        records=len(results),
        broken=broken,
        pictures=_pictures(files, results),
    )


def _pictures(files: list[Path], results: Mapping[Path, Result]) -> dict[Path, Result]:
    found = {}
    for path in files:
        # The seed is read whole, or seed 1 would have the pictures of seed 10.
        stem = path.name.endswith(".png") and re.match(r".*?-seed\d+", path.name)
        if stem and (result := results.get(path.with_name(f"{stem[0]}.json"))):
            found[path] = result
    return found


def _in_place(result: Result, path: Path) -> Result:
    # A copied file would count as one more seed and narrow the interval.
    place = result.key.place
    if not path.as_posix().endswith(f"/{place}"):
        raise UserError(
            f"The record {path} holds the number of {place}: a copy, or moved by hand. "
            f"Move it there or delete it."
        )
    return result


def _lean(result: Result, backbone: str, shared: dict[Any, Any]) -> Result:
    """A record without what no page shows, and with one copy of what is the same in many of a `backbone`."""
    changes = {
        "backbone": shared.setdefault(backbone, result.backbone),
        "load_report": shared.setdefault((backbone, "loading"), result.load_report),
        "protocol": shared.setdefault(result.digest, result.protocol),
        "data": shared.setdefault((result.digest, str(result.data)), result.data),
        "selection": shared.setdefault(_chosen(result.selection), result.selection),
        "curves": {},
        "cost": {key: result.cost[key] for key in SHOWN if key in result.cost},
        "environment": {},
        "git": {},
    }
    vars(result).update(changes)  # nobody else has it yet, and a copy takes as long as all checks
    return result


def _chosen(selection: Json) -> tuple[object, ...]:
    """What pages say of a selection: of its trials their number."""
    on = selection.get("selected_on"), selection.get("reported_on")
    return "selection", *on, len(selection.get("trials") or ())
