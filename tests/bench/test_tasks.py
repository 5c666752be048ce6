"""Every task of every family, held to the contract."""

import json
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from bench import run, tasks
from bench.errors import UserError
from bench.tasks import UNPUBLISHED, Protocol, Task

ALL = [task for family in tasks.family_names() for task in tasks.tasks_of(family).values()]
PAIRS = [(task, protocol) for task in ALL for protocol in task.protocols]


def named(pair: tuple[Task, Protocol]) -> str:
    return f"{pair[0].name}:{pair[1].name}"


# Each contract is one test that loops over all pairs: a case a pair would be a quarter of the suite's cases.
def test_every_protocol_is_complete_and_cites_its_source() -> None:
    for task, protocol in PAIRS:
        where = named((task, protocol))
        assert protocol.source, where
        assert protocol.expected, where
        assert protocol.epochs > 0, where
        assert ("frozen" in protocol.name) == protocol.frozen, where
        assert task.protocol(protocol.name) == protocol, where


def test_the_command_runs_the_recipe_at_full_scale() -> None:
    for task, protocol in PAIRS:
        where = named((task, protocol))
        if not protocol.command:
            assert protocol.expected == UNPUBLISHED, where
            continue
        prefix, words = protocol.command.split(maxsplit=3)[:3], shlex.split(protocol.command)[3:]
        assert prefix == ["python", "-m", "bench.run"], where
        given = run.parse(words)
        (reproduced,) = [t for t in ALL if [t.name] == given.task]
        assert reproduced.family == task.family, where
        full = reproduced.protocol(given.protocol)
        assert full.expected in protocol.expected, where
        assert full.command == protocol.command, where
        assert UNPUBLISHED not in full.expected, where
        assert given.data_root, where
        assert given.gpus == 8 or task.family in ("classification", "analysis"), where


def test_the_upstream_config_is_plain_json_and_a_pure_function() -> None:
    for task, protocol in PAIRS:
        where = named((task, protocol))
        config = json.dumps(task.upstream(task, protocol))
        assert json.dumps(task.upstream(task, protocol)) == config, where
        assert '"/' not in config, f"an absolute path is in the digest of {where}"


def test_every_field_of_a_protocol_moves_the_digest() -> None:
    for task, protocol in PAIRS:
        _check_every_field(task, protocol)


def _check_every_field(task: Task, protocol: Protocol) -> None:
    where = named((task, protocol))
    before = task.digest(protocol, "data")
    assert task.digest(replace(protocol), "data") == before, where
    assert task.digest(protocol, "other data") != before, where
    assert replace(task, version=task.version + 1).digest(protocol, "data") != before, where
    for field in fields(protocol):
        value = getattr(protocol, field.name)
        if isinstance(value, bool):
            other = not value
        elif isinstance(value, int | float):
            other = value + 1
        elif get_origin(field.type) is Literal:
            other = next(v for v in get_args(field.type) if v != value)
        elif isinstance(value, str):
            other = value + "x"
        else:
            continue
        moved = task.digest(replace(protocol, **{field.name: other}), "data") != before
        assert moved != (field.name in ("source", "expected", "command")), f"{where}: {field.name}"


def test_a_bare_family_is_its_embedded_world_and_all_is_every_family() -> None:
    assert [t.name for t in tasks.find(["classification"])] == ["classification/scenes"]
    found = [t.name for t in tasks.find(["all", "classification/scenes"])]
    downstream = [family for family in tasks.family_names() if family != "analysis"]
    assert found == [f"{family}/scenes" for family in downstream]


def test_bare_analysis_is_all_analyses_of_the_embedded_world() -> None:
    found = tasks.find(["analysis", "analysis/attention"])
    names = [task.name for task in found]
    assert len(names) == len(set(names))
    assert {"analysis/attention", "analysis/similarity", "analysis/occlusion"} < set(names)
    assert {task.dataset.name for task in found} == {"scenes"}
    with pytest.raises(UserError, match="Did you mean analysis/attention"):
        tasks.find(["analysis/atention"])


def test_a_shared_package_is_not_a_family() -> None:
    assert "openmmlab" not in tasks.family_names()
    with pytest.raises(UserError, match="Unknown task 'openmmlab'"):
        tasks.find(["openmmlab/scenes"])


def test_a_changed_protocol_is_meant() -> None:
    """Every published number hangs on its digest: change a protocol, and these, on purpose only.

    After a change of protocol: a line in CHANGELOG.md; after a change of code that moves numbers: a
    higher `version`. Then copy what this test found into golden_digests.json.
    """
    golden = json.loads(Path(__file__).with_name("golden_digests.json").read_text())
    assert {named(pair): pair[0].digest(pair[1], "data")[:16] for pair in PAIRS} == golden


def test_a_transfer_protocol_reads_two_data_sets_and_one_split_of_its_own() -> None:
    task = ALL[0]
    other = replace(task.dataset, name="other", splits={"train": ("a",), "test": ("b",)})
    protocol = replace(task.protocols[0], train_on=other, splits=("val",))
    train, test = task.sources(protocol)
    assert (train.name, list(train.splits)) == ("other", ["train"])
    assert (test.name, list(test.splits)) == (task.dataset.name, ["val"])
    prints = {"other": "1", task.dataset.name: "2"}
    found = task.fingerprint(protocol, lambda dataset: prints[dataset.name])
    assert found not in prints.values()
    assert found != task.fingerprint(protocol, lambda dataset: "2")
    assert task.fingerprint(task.protocols[0], lambda dataset: "2") == "2"


def test_a_scaled_protocol_says_what_changed_and_what_is_published_at_full_scale() -> None:
    full = replace(ALL[0].protocols[0], source="A recipe.", expected="top1 90", command="do it")
    small = full.scaled("a CPU", name="small", epochs=7)
    assert small == replace(
        full,
        name="small",
        epochs=7,
        source="A recipe. Scaled down to a CPU: epochs 7.",
        expected="none published at this scale; at full scale top1 90",
    )
