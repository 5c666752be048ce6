"""Suites: what a file says, and one carried out as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import suite
from bench.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = """
question = "does it run"
[[pretrain]]
name = "mae-{images}"
command = "--method mae --arch test_vit --recipe smoke --data species --epochs 1 --images {images} --decoder-dim 32 \
--decoder-depth 1 --decoder-heads 2 {options}"
each = [{ images = [1, 2], options = "" }, { images = 3, options = "--mask-ratio 2" }]
[[evaluate]]
backbones = ["test_vit"]
tasks = ["classification/scenes"]
protocols = ["frozen-knn"]
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", [path.stem for path in suite.FOLDER.glob("*.toml")])
def test_every_suite_of_the_project_can_be_read_and_its_pretrainings_are_distinct(name, tmp_path):
    found = suite.load(name)
    files = {p.weights(tmp_path) for p in found.pretrainings}
    assert found.evaluations
    assert len(files) == len(found.pretrainings) == len({p.name for p in found.pretrainings})


def test_fields_are_filled_in_from_all_combinations(small):
    assert [p.name for p in suite.load(str(small)).pretrainings] == ["mae-1", "mae-2", "mae-3"]
    assert suite.load(str(small)).pretrainings[1].arguments[-7:] == (
        *("2", "--decoder-dim", "32"),
        *("--decoder-depth", "1", "--decoder-heads", "2"),
    )


def test_changed_settings_are_another_file(small, tmp_path):
    before = suite.load(str(small)).pretrainings[0].weights(tmp_path)
    small.write_text(SMALL.replace("--epochs 1", "--epochs 2"))
    after = suite.load(str(small)).pretrainings[0].weights(tmp_path)
    assert before != after
    assert before.parent.name == after.parent.name == "mae-1"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[[evaluate]]", "[[evaluat]]", "evaluate"),
        ("protocols", "protocol", "protocols"),
        ("tasks = [", "tasks = 3 #", "list is expected"),
        ('name = "mae-{images}"', "", "lacks name"),
        ("mae-{images}", "mae-{image}", "{image}"),
        ("[[evaluate]]", "[[evaluate", "cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_one_paragraph(small, old, new, said):
    small.write_text(SMALL.replace(old, new))
    with pytest.raises(UserError, match=said.replace("{", r"\{")):
        suite.load(str(small))


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(UserError, match="few-images"):
        suite.load("few-image")


def test_a_suite_makes_backbones_evaluates_them_and_goes_on_where_one_failed(small, tmp_path):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "bench.run", "--suite", str(small), "--smoke", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    plan = run("--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.count("to do    pretraining") == 3
    first = run()
    assert first.returncode == 1, first.stderr
    assert "mae-3: pretraining ended with exit status 2" in first.stderr
    assert "mask ratio of 2" in first.stderr
    assert "3 of 3 done" in first.stdout
    records = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("results/*/*/*/*")}
    told = [r["backbone"]["pretraining"].get("pretraining", "{}") for r in records.values()]
    assert sorted(json.loads(text).get("images", 0) for text in told) == [0, 1, 2]

    again = run()
    assert "pretraining mae-1" not in again.stderr
    assert "3 of 3 done" in again.stdout


def test_names_beside_a_suite_are_refused(small):
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--suite", str(small), "--task", "all"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "--suite says itself" in done.stderr
