"""The CLI as a user drives it: real processes, a real little task, an empty folder to start from."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file
from toy_desk import ENTRIES, ROOT, TOY, Desk


def test_a_run_leaves_the_whole_record_and_the_second_command_does_nothing(desk: Desk) -> None:
    first = desk.run(*TOY, "--seeds", "2")
    assert first.returncode == 0, first.stderr
    records = desk.records()
    # y = x^2 at 0..3 is off its best line by (1, -1, -1, 1): RMSE 1.
    assert [r["metrics"]["rmse"] for r in records] == pytest.approx([1.0, 2.0])
    assert records[0]["backbone"]["method"] == "scratch"
    assert records[0]["environment"]["torch"]
    assert records[0]["cost"]["device_hours"] == pytest.approx(1.5 / 3600, abs=1e-6)
    assert set(records[0]) == {
        *("schema", "status", "error", "backbone", "load_report", "task", "task_version"),
        *("protocol", "digest", "data", "selection", "seed", "metrics", "curves", "primary"),
        *("higher_is_better", "cost", "environment", "git", "started", "finished"),
        "sha256",
    }
    second = desk.run(*TOY, "--seeds", "2")
    assert second.returncode == 0
    assert "2 of 2 done" in second.stdout
    assert desk.attempts() == 2
    assert str(next(desk.folder.glob("results/**/*-seed1.json")).name) in second.stdout


def test_a_baseline_stands_where_a_backbone_does(desk: Desk) -> None:
    assert desk.run("--backbone", "mean", "test_vit", "--task", "toy/line").returncode == 0
    mean, vit = desk.records()
    # 0, 1, 4, 9 are off their mean 3.5 by (3.5, 2.5, 0.5, 5.5): RMSE 3.5.
    assert mean["metrics"]["rmse"] == pytest.approx(3.5)
    assert (mean["backbone"]["name"], mean["backbone"]["method"]) == ("mean", "baseline")
    assert (mean["digest"], vit["metrics"]["rmse"]) == (vit["digest"], pytest.approx(1.0))
    assert "Baselines: mean" in desk.run("--list", "tasks").stdout


def test_only_what_is_missing_is_run_and_changed_data_is_stale(desk: Desk) -> None:
    assert desk.run(*TOY).returncode == 0
    plan = desk.run(*TOY, "--seeds", "3", "--dry-run").stdout
    assert [line.split()[0] for line in plan.splitlines()[:3]] == ["done", "to", "to"]
    assert "1 of 3 done; to do: about 0.00 device-hours" in plan
    (desk.data / "points.txt").write_text("0 0\n1 1\n2 2\n")
    plan = desk.run(*TOY, "--dry-run").stdout
    assert plan.startswith("stale")
    assert "unknown cost" in plan
    assert desk.run(*TOY).returncode == 0
    assert [round(r["metrics"]["rmse"], 6) for r in desk.records()] in ([1, 0], [0, 1])
    assert len({r["digest"] for r in desk.records()}) == 2


def test_protocols_and_smoke_are_kept_apart(desk: Desk) -> None:
    for words in ([], ["--protocol", "parabola"], ["--smoke"]):
        assert desk.run(*TOY, *words).returncode == 0
    names = sorted(r["protocol"]["name"] for r in desk.records())
    assert names == ["frozen", "frozen-smoke", "parabola"]
    assert len({r["digest"] for r in desk.records()}) == 3


def test_the_digest_ignores_where_things_lie(desk: Desk, tmp_path_factory: object) -> None:
    assert desk.run(*TOY).returncode == 0
    moved = desk.folder / "elsewhere"
    (desk.folder / "data").rename(moved)
    plan = desk.run(*TOY, "--dry-run", "--data-root", str(moved), "--work-dir", "other").stdout
    assert plan.startswith("done")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--backbone", "resnet81", "--task", "toy/line"], "Did you mean resnet18"),
        (["--backbone", "test_vit", "--task", "clasification"], "Did you mean classification"),
        (["--backbone", "test_vit", "--task", "toy/lines"], "Unknown task"),
        ([*TOY, "--protocol", "frosen"], "Did you mean frozen"),
        ([*TOY, "--cluster", "inlnie"], "Did you mean inline"),
        ([*TOY, "--seeds", "0"], "--seeds 0"),
        ([*TOY, "--gpus", "64"], "--gpus 64: this machine has"),
        ([*TOY, "--data-root", "nowhere"], "data root nowhere is not a folder"),
        (["--task", "toy/line"], "--backbone is missing"),
        (["--list", "tsks"], "Did you mean tasks"),
        ([*TOY, "--include", "nothing.py"], "nothing.py is not a Python file"),
    ],
)
def test_a_wrong_request_is_one_paragraph_and_status_2(desk: Desk, words: list[str], says: str) -> None:
    ended = desk.run(*words)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not desk.records()


def test_missing_data_names_the_file_expected_and_the_nearest(desk: Desk) -> None:
    (desk.data / "points.txt").rename(desk.data / "point.txt")
    ended = desk.run(*TOY)
    assert ended.returncode == 2
    assert f"expected {desk.data / 'points.txt'}" in ended.stderr
    assert f"nearest there: {desk.data / 'point.txt'}" in ended.stderr


@pytest.mark.long
def test_a_failure_is_a_record_and_is_tried_again(desk: Desk) -> None:
    (desk.data / "bug").touch()
    ended = desk.run(*TOY)
    assert ended.returncode == 1
    assert [(r["status"], r["metrics"]) for r in desk.records()] == [("failed", {})]
    assert "ZeroDivisionError: a bug (toy_entries.py" in desk.records()[0]["error"]
    assert "Traceback" not in ended.stderr
    (desk.data / "bug").rename(desk.data / "install")
    assert desk.run(*TOY).returncode == 1
    assert "nothing is installed while the harness runs" in desk.records()[0]["error"]
    (desk.data / "install").rename(desk.data / "mistake")
    assert desk.run(*TOY).returncode == 1
    assert desk.records()[0]["error"].endswith("should not be there. Delete it.")
    (desk.data / "mistake").unlink()
    assert desk.run(*TOY).returncode == 0
    assert [r["status"] for r in desk.records()] == ["done"]


@pytest.mark.long
@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_a_killed_run_is_said_and_the_next_command_completes(desk: Desk, cluster: str) -> None:
    (desk.data / "wait").touch()
    command = desk.start(*TOY, "--cluster", cluster)
    desk.await_start()
    lock = next(desk.folder.glob("runs/**/lock"))
    os.kill(int(lock.read_text()), signal.SIGKILL)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 1
    assert "test_vit seed 0:" in errors
    (desk.data / "wait").unlink()
    assert desk.run(*TOY).returncode == 0
    assert [r["status"] for r in desk.records()] == ["done"]


@pytest.mark.long
def test_killing_the_command_takes_its_run_along(desk: Desk) -> None:
    (desk.data / "wait").touch()
    command = desk.start(*TOY)
    desk.await_start()
    command.kill()
    command.communicate()
    (desk.data / "wait").unlink()
    time.sleep(1)
    assert not desk.records()
    assert desk.run(*TOY).returncode == 0


@pytest.mark.long
def test_ctrl_c_is_one_line_and_nothing_computed_is_lost(desk: Desk) -> None:
    assert desk.run(*TOY).returncode == 0
    (desk.data / "wait").touch()
    command = desk.start(*TOY, "--seeds", "2")
    desk.await_start(attempts=2)
    os.killpg(command.pid, signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "Interrupted. Finished runs are in the store" in errors
    assert "Traceback" not in errors
    assert len(desk.records()) == 1
    (desk.data / "wait").unlink()
    assert desk.run(*TOY, "--seeds", "2").returncode == 0
    assert len(desk.records()) == 2


@pytest.mark.parametrize(("folder", "flag"), [("results", "--results"), ("runs", "--work-dir")])
def test_an_unwritable_folder_stops_before_anything_is_run(desk: Desk, folder: str, flag: str) -> None:
    (desk.folder / folder).write_text("a file, not a folder")
    ended = desk.run(*TOY)
    assert ended.returncode == 2
    assert f"The folder {folder} cannot be written" in ended.stderr
    assert f"{flag} DIR" in ended.stderr
    assert desk.attempts() == 0


@pytest.mark.long
def test_a_full_disk_loses_nothing_that_was_computed(desk: Desk) -> None:
    """The store stops taking records after the run has started; the next command only writes."""
    (desk.data / "wait").touch()
    command = desk.start(*TOY)
    desk.await_start()
    # No file may be made below the record's folder's name: what a full disk does to mkdir and open.
    blocked = desk.folder / "results" / "toy"
    blocked.write_text("")
    (desk.data / "wait").unlink()
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    assert f"The record {blocked}" in errors
    assert "The result is saved in" in errors
    assert "Traceback" not in errors
    blocked.unlink()
    assert desk.run(*TOY).returncode == 0
    assert desk.attempts() == 1
    assert len(desk.records()) == 1


@pytest.mark.long
def test_weights_that_do_not_fit_stop_everything_before_a_run(desk: Desk) -> None:
    save_file({"stem.weight": torch.zeros(3)}, desk.folder / "w.safetensors")
    ended = desk.run("--backbone", "test_vit", "test_vit@w.safetensors", "--task", "toy/line")
    assert ended.returncode == 2
    assert "(stem.weight, ...) are not those of test_vit" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert desk.attempts() == 0


def test_help_and_list_import_no_torch() -> None:
    for words in (["--help"], ["--list", "tasks"], ["--list", "backbones"], ["--list", "protocols"]):
        code = (
            "import sys\nfrom bench import run\n"
            f"try:\n    run.main({words!r})\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'timm', 'mmengine', 'mmcv', 'numpy'} & set(sys.modules)\n"
            "sys.exit(f'imported {heavy}' if heavy else 0)"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert ended.returncode == 0, ended.stderr


def test_a_broken_family_cannot_break_another(desk: Desk) -> None:
    """A folder of families of its own comes first on the path: one is broken, one is not."""
    families = desk.folder / "adapters"
    families.mkdir()
    (families / "__init__.py").write_text("SHARED = ()\n")
    (families / "broken.py").write_text("import a_package_that_is_not_there\nTASKS = ()\n")
    (families / "toy.py").write_text(ENTRIES.read_text())
    ended = desk.run("--backbone", "test_vit", "--task", "broken")
    assert ended.returncode == 2
    assert "family broken cannot be imported: No module named 'a_package" in ended.stderr
    assert "Traceback" not in ended.stderr
    fine = desk.run("--backbone", "test_vit", "--task", "toy/line", "--dry-run")
    assert fine.returncode == 0
