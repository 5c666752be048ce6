import hashlib
import json
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.files import digest
from bench.records import Result, RunKey, Store

KEY = RunKey(task="pose/coco", backbone="a/b", weights8="12345678", digest="f" * 64, seed=3)


def result(**changes: object) -> Result:
    made = Result(
        status="done",
        error=None,
        backbone={"name": "a/b", "arch": "resnet18", "weights_sha256": None},
        load_report={"matched": 0},
        task="pose/coco",
        task_version=1,
        protocol={"name": "frozen"},
        digest="f" * 64,
        data={"name": "coco", "fingerprint": "0", "splits": ["val"]},
        selection={"selected_on": None, "reported_on": "val", "trials": [], "epoch": "last"},
        seed=3,
        metrics={"AP": 71.5},
        primary="AP",
        higher_is_better=True,
        cost={"device_hours": 0.1},
        environment={},
        git={"commit": None, "dirty": None},
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(KEY, result())
    assert path == tmp_path / "pose/coco/a--b@12345678/ffffffff-seed3.json"
    assert store.load(KEY) == result()
    assert list(store.results()) == [result()]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nan_is_null_on_disk_and_nan_again_when_read(tmp_path: Path) -> None:
    path = Store(tmp_path).write(KEY, result(metrics={"AP": math.nan}))
    assert json.loads(path.read_text())["metrics"] == {"AP": None}
    read = Store(tmp_path).load(KEY)
    assert read is not None
    assert math.isnan(read.metrics["AP"])


def test_a_curve_is_one_line_of_five_digits(tmp_path: Path) -> None:
    path = Store(tmp_path).write(KEY, result(curves={"cls": [1 / 3, 20.0], "box": []}))
    assert '\n  "cls": [0.33333, 20.0],\n' in path.read_text()
    assert Store(tmp_path).read(path).curves == {"cls": [0.33333, 20.0], "box": []}


def test_a_record_of_schema_1_had_no_curves(tmp_path: Path) -> None:
    old = json.loads(result().to_json())
    del old["curves"]
    path = Store(tmp_path).write(KEY, result())
    path.write_text(json.dumps(old | {"schema": 1}))
    assert Store(tmp_path).read(path) == result()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not a record"),
        ('{"schema": 1}', "keys missing or unknown"),
        (result().to_json().replace('"curves": {}', '"curves": []'), "unfit values of curves"),
        ('{"schema": 99, "new": 1}', "schema 99, which is later than this version supports"),
        (result().to_json().replace('"seed": 3', '"seed": "3"'), "unfit values of seed"),
        (result().to_json().replace("71.5", '"71.5"'), r"unfit values of metrics\.AP"),
        (result().to_json().replace('"name": "frozen"', '"nme": 1'), r"unfit values of protocol\.name"),
        (result().to_json().replace('"load_report"', '"lod_report"'), "load_report, lod_report"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = Store(tmp_path).write(KEY, result())
    path.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        Store(tmp_path).load(KEY)
    assert str(path) in str(caught.value)


def test_the_digest_is_the_same_in_another_process_and_changes_with_the_value() -> None:
    value = {"b": [1, 2.5, None], "a": {"é": True}}
    code = f"from bench.records import digest; print(digest({value!r}))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert digest(value) == other.stdout.strip()
    assert digest(dict(reversed(value.items()))) == digest(value)
    assert digest({**value, "b": [1, 2.5, 0]}) != digest(value)


@pytest.mark.long
def test_sigkill_at_any_moment_leaves_whole_records_only(tmp_path: Path) -> None:
    """A writer is killed in the middle of endless writing, twenty times."""
    code = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parent), str(Path.cwd())]!r}
        from pathlib import Path
        from test_records import KEY, result
        from bench.records import Store
        store = Store(Path({str(tmp_path)!r}))
        store.write(KEY, result())
        print("on", flush=True)
        while True:
            store.write(KEY, result())
    """)
    for delay in range(1, 21):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            try:
                writer.wait(timeout=delay / 2000)
            except subprocess.TimeoutExpired:
                writer.kill()
        assert list(Store(tmp_path).results()) == [result()]


def test_an_error_that_names_a_file_of_no_encoding_comes_back(tmp_path: Path) -> None:
    failed = result(status="failed", error="no image \udce9.jpg")  # as os.fsdecode has it
    Store(tmp_path).write(KEY, failed)
    assert Store(tmp_path).load(KEY) == failed


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"", b"\xef\xbb\xbf{}"])
def test_bytes_that_are_no_text_are_named(tmp_path: Path, content: bytes) -> None:
    path = Store(tmp_path).write(KEY, result())
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name}.*not JSON"):
        Store(tmp_path).read(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("71.5", "81.5"),
        lambda text: text.replace('"seed": 3', '"seed":  3'),
        lambda text: text[: text.rindex(',\n "sha256"')] + "\n}\n",
        lambda text: text[:-6] + "0" + text[-5:],
    ],
)
def test_a_record_that_was_edited_by_hand_is_refused_by_name(tmp_path: Path, edit: Any) -> None:
    path = Store(tmp_path).write(KEY, result())
    text = path.read_text()
    edited = edit(text)
    assert edited != text
    path.write_text(edited)
    with pytest.raises(UserError, match=f"{path.name}.*edited by hand"):
        Store(tmp_path).read(path)


def test_the_hash_is_that_of_the_record_without_it(tmp_path: Path) -> None:
    text = Store(tmp_path).write(KEY, result()).read_text()
    record = json.loads(text)
    without = text.replace(f',\n "sha256": "{record["sha256"]}"', "")
    assert record["sha256"] == hashlib.sha256(without.encode()).hexdigest()
    assert list(record)[-1] == "sha256"


def test_a_record_of_schema_2_had_no_hash(tmp_path: Path) -> None:
    old = json.loads(result().to_json())
    del old["sha256"]
    path = Store(tmp_path).write(KEY, result())
    path.write_text(json.dumps(old | {"schema": 2}, indent=1))
    assert Store(tmp_path).read(path) == result()
    assert "sha256" in json.loads(Store(tmp_path).read(path).to_json())
