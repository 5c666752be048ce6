"""Suites: what a file says, and one carried out as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.runs import suite
from bench.runs.plan import Request

ROOT = Path(__file__).parents[3]
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


@pytest.mark.parametrize("name", [path.stem for path in suite.FOLDER.glob("*.toml")])
def test_every_pretraining_of_a_suite_is_one_that_pretrain_run_takes(name, capsys):
    from pretrain import run

    for made in suite.load(name).pretrainings:
        assert run.main([*made.arguments, "--out", "nowhere", "--dry-run"]) == 0, made.name
        assert made.value_of("--arch", "") in capsys.readouterr().out


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
        ("tasks = [", "tasks = 3 #", "must be a list"),
        ('name = "mae-{images}"', "", "lacks name"),
        ("mae-{images}", "mae-{image}", "{image}"),
        ("[[evaluate]]", "[[evaluate", "cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_one_paragraph(small, old, new, said):
    small.write_text(SMALL.replace(old, new))
    with pytest.raises(UserError, match=said.replace("{", r"\{")):
        suite.load(str(small))


REPLICATES = """
[[pretrain]]
name = "{method}-{seed}"
command = "--method {method} --arch test_vit --recipe smoke --data species --seed {seed}"
each = [{ method = "mae", seed = [0, 1, 2], minutes = 3 }, { method = "moco", seed = 0, minutes = 9.5 }]
[[pretrain]]
name = "mae-photographs"
command = "--method mae --arch test_vit --recipe smoke --data photographs"
needs = "photographs"
[[evaluate]]
backbones = ["test_resnet"]
pretrained = ["m*-?"]
tasks = ["classification/scenes"]
protocols = ["frozen", "frozen-knn"]
replicates = 3
minutes = 2
[[evaluate]]
pretrained = ["moco-*"]
tasks = ["classification/scenes"]
protocols = ["frozen"]
seeds = 2
[[evaluate]]
tasks = ["segmentation/scenes"]
protocols = ["frozen"]
needs = "photographs"
"""


@pytest.fixture
def replicated(tmp_path):
    path = tmp_path / "replicated.toml"
    path.write_text(REPLICATES)
    return suite.load(str(path))


def listed(wanted, tmp_path):
    request = Request(backbones=(), tasks=(), work_dir=tmp_path, results=tmp_path)
    return suite.listed(wanted.possible(None)[0], request)


def test_a_replicate_is_a_pretraining_at_its_own_seed(replicated, tmp_path):
    unmade, runs = listed(replicated, tmp_path)
    assert [p.name for p in unmade] == ["mae-0", "mae-1", "mae-2", "moco-0"]
    frozen = [f"{r.run.backbone.name} {r.run.seed}" for r in runs if r.run.protocol == "frozen"]
    assert frozen == [
        *("test_resnet 0", "mae-0 0", "moco-0 0"),
        *("test_resnet 1", "mae-1 1"),
        *("test_resnet 2", "mae-2 2"),
        "moco-0 1",  # of the second table, which asks for two seeds of it
    ]
    assert {r.run.backbone.name for r in runs if r.made} == {"test_resnet"}
    assert [r.minutes for r in runs] == [2] * 14 + [None]


def test_what_is_made_is_evaluated_under_its_own_weights(replicated, tmp_path):
    from bench.backbones.build import build
    from pretrain.training import REQUIRED, export

    (first, *_) = replicated.pretrainings
    weights = first.weights(tmp_path)
    weights.parent.mkdir(parents=True)
    header = dict.fromkeys(REQUIRED, "-") | {"arch": "test_vit", "name": "mae-0"}
    header |= {"mean": "[0, 0, 0]", "std": "[1, 1, 1]", "img_size": "[64, 64]"}
    export(build("test_vit", num_classes=0)[0], weights, header)
    unmade, runs = listed(replicated, tmp_path)
    assert "mae-0" not in [p.name for p in unmade]
    made = {str(r.run) for r in runs if r.made and r.run.backbone.weights}
    assert made == {f"classification/scenes {p} mae-0 seed 0" for p in ("frozen", "frozen-knn")}
    assert len(runs) == 15


def test_what_the_data_root_lacks_is_left_out_and_said(replicated, tmp_path):
    _, told = replicated.possible(None)
    assert "1 pretrainings" in told
    assert "folder photographs" in told
    (tmp_path / "photographs").mkdir()
    assert replicated.possible(tmp_path) == (replicated, "")


def test_the_hours_of_pretraining_are_those_that_the_file_states(replicated):
    assert suite.pretraining_cost(replicated.pretrainings) == (
        "5 backbones to pretrain: about 0.3 hours and 1 of unknown cost\n"
    )
    assert suite.pretraining_cost([]) == ""


def test_a_smoke_run_is_an_epoch_and_one_seed_of_everything(replicated):
    smoke = replicated.smoke()
    assert [p.name for p in smoke.pretrainings] == ["mae-0", "moco-0", "mae-photographs"]
    assert {p.value_of("--epochs", "") for p in smoke.pretrainings} == {"1"}
    assert [(e.seeds, e.replicates) for e in smoke.evaluations] == [(1, 1), (1, 0), (1, 0)]


def test_seeds_and_replicates_exclude_each_other(tmp_path):
    path = tmp_path / "both.toml"
    path.write_text(REPLICATES.replace("seeds = 2", "seeds = 2\nreplicates = 2"))
    with pytest.raises(UserError, match="both seeds and replicates"):
        suite.load(str(path))


@pytest.mark.parametrize("name", [p.stem for p in suite.FOLDER.glob("claims*.toml")])
def test_the_runs_of_the_claims_are_all_possible_and_their_cost_is_stated(name, tmp_path):
    wanted = suite.load(name)
    unmade, runs = listed(wanted, tmp_path)
    assert runs
    assert all(r.minutes is not None for r in runs)
    assert all(p.minutes is not None for p in wanted.pretrainings)
    assert {r.run.backbone.name for r in runs if not r.made} == {p.name for p in unmade}


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(UserError, match="few-images"):
        suite.load("few-image")


@pytest.mark.long
@pytest.mark.parametrize("where", [(), ("--cluster", "local", "--jobs", "2")])
def test_a_suite_makes_backbones_evaluates_them_and_goes_on_where_one_failed(small, tmp_path, where):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "bench.run", "--suite", str(small), "--smoke", *where, *words],
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
    cost, work = (first.stderr.index(words) for words in ("3 backbones to pret", "pretraining mae-1"))
    assert cost < work
    assert "mae-3: pretraining ended with exit status 2" in first.stderr
    logs = "".join(path.read_text() for path in tmp_path.glob("runs/pretraining/*/*/log.txt"))
    assert "mask ratio 2" in (logs if where else first.stderr)
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
    assert "--suite selects" in done.stderr
