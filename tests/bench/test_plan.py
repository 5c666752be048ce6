"""Fingerprints of what is planned."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import plan
from bench.datasets import Dataset


def test_two_families_read_different_files_of_one_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("boxes.json", "persons.json"):
        (tmp_path / name).write_text(name)
    boxes = Dataset(name="coco", source="", licence="", root=".", splits={"val": ("boxes.json",)})
    persons = replace(boxes, splits={"val": ("persons.json",)})
    of = plan._planned_fingerprints(tmp_path)
    assert [of(boxes), of(persons)] == [d.fingerprint(tmp_path) for d in (boxes, persons)]
    assert of(boxes) != of(persons)
