import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import moved_apart, network

from pretrain import job, run
from pretrain.methods import METHODS

ROOT = Path(__file__).parents[2]
SMALL = ["--arch", "test_vit", "--recipe", "smoke", "--batch-size", "4", "--workers", "0"]
DECODER = ["--decoder-dim", "32", "--decoder-depth", "1", "--decoder-heads", "2"]

pytestmark = pytest.mark.usefixtures("one_thread")


def words(images: Path, out: Path, *more: str, method: str = "mae") -> list[str]:
    given = ["--method", method, *SMALL, *DECODER, "--data", str(images), "--out", str(out)]
    return [*given, *more]


@pytest.mark.parametrize("name", [method.name for method in METHODS])
def test_every_method_leaves_a_backbone(name: str, images: Path, tmp_path: Path) -> None:
    small = ["--epochs", "1", *(["--projector-dim", "32"] if name == "moco" else [])]
    assert run.main(words(images, tmp_path, *small, method=name)) == run.DONE
    with safe_open(tmp_path / "backbone.safetensors", "pt") as file:
        header = file.metadata()
        assert all(torch.isfinite(file.get_tensor(key)).all() for key in file.keys())  # noqa: SIM118
    assert (header["arch"], header["method"], header["recipe"]) == ("test_vit", name, "smoke")
    assert (header["epochs"], header["img_size"]) == ("1", "[64, 64]")
    assert len(header["data_fingerprint"]) == 64
    assert json.loads(header["pretraining"])["method"]["decoder_dim"] == 32


def test_any_view_and_similarity_that_go_together(images: Path, tmp_path: Path) -> None:
    pair = ["--views", "mask-complement", "--similarity", "cosine", "--epochs", "1"]
    assert run.main(words(images, tmp_path, *pair)) == run.DONE


def test_another_augmentation_is_another_training(images: Path, tmp_path: Path) -> None:
    found = []
    for name in ("mae", "simmim"):
        given = ["--epochs", "1", "--augmentation", name]
        assert run.main(words(images, tmp_path / name, *given)) == run.DONE
        with safe_open(tmp_path / name / "backbone.safetensors", "pt") as file:
            told = json.loads(file.metadata()["pretraining"])
            found.append(file.get_tensor("patch_embed.proj.weight"))
        assert told["recipe"]["augmentation"] == name
    assert not torch.equal(*found)  # crops of other sizes


def test_few_images_make_as_many_steps(images: Path, tmp_path: Path) -> None:
    one = words(images, tmp_path, "--images", "1", "--epochs", "1", "--checkpoint-seconds", "0")
    assert run.main(one) == run.DONE
    assert (tmp_path / "checkpoint-000000003.pth").is_file()  # 12 images, 4 a batch


@pytest.mark.long
def test_a_killed_command_ends_with_the_same_weights(images: Path, tmp_path: Path) -> None:
    """By SIGKILL from outside, with a worker that decodes; wherever the process happens to be."""
    command = [sys.executable, "-m", "pretrain.run"]
    there = words(images, tmp_path / "killed", "--checkpoint-seconds", "0", "--epochs", "12")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *there, "--workers", "1"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    while not list((tmp_path / "killed").glob("checkpoint-*")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "backbone.safetensors").exists()
    assert run.main(there) == run.DONE
    assert run.main(words(images, tmp_path / "whole", "--epochs", "12")) == run.DONE
    one, two = (load_file(tmp_path / n / "backbone.safetensors") for n in ("killed", "whole"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def as_torchrun(given: list[str], world_size: int) -> list[int | None]:
    """The command in several processes; returns their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def one(rank: int) -> None:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
        os.environ |= {name: str(value) for name, value in where.items()}
        os.environ["WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"] = str(world_size)
        os._exit(run.main(given))

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one, args=(rank,)) for rank in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_two_processes_train_as_one(images: Path, tmp_path: Path) -> None:
    """Over gloo. Without masks, which each process draws for itself, the weights are those of one."""
    given = ["--precision", "fp32", "--epochs", "1"]
    alone = words(images, tmp_path / "alone", *given, method="supervised")
    shared = words(images, tmp_path / "shared", *given, method="supervised")
    assert run.main(alone) == run.DONE
    assert as_torchrun(shared, 2) == [run.DONE] * 2
    one, two = (load_file(tmp_path / n / "backbone.safetensors") for n in ("alone", "shared"))
    assert moved_apart(one, two, network("supervised").encoder.state_dict()) < 0.01


def test_a_finished_run_is_left_alone(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(words(images, tmp_path, "--epochs", "1")) == run.DONE
    (tmp_path / "backbone.safetensors").write_bytes(b"weights")
    assert run.main(words(images, tmp_path, "--epochs", "1")) == run.DONE
    assert "exists already" in capsys.readouterr().out
    assert (tmp_path / "backbone.safetensors").read_bytes() == b"weights"


def refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run.main(given) == run.WRONG
    said = capsys.readouterr().err
    assert said.startswith("pretrain.run: ")
    assert said.count("\n") == 1  # one paragraph
    return said


def test_another_runs_folder_is_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with job.claim(tmp_path, {"seed": 0, "recipe": {"epochs": 1, "name": "a"}}):
        (tmp_path / "checkpoint-000000001.pth").touch()
    before = (tmp_path / "run.json").read_text()
    said = refused(words(images, tmp_path), capsys)
    assert "its recipe.epochs is 1, not 2" in said
    assert "recipe.name" in said
    assert (tmp_path / "run.json").read_text() == before


def test_a_request_that_came_to_nothing_leaves_the_folder_free(tmp_path: Path) -> None:
    with job.claim(tmp_path, {"seed": 0}):
        pass
    with job.claim(tmp_path, {"seed": 1}):
        assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 1}


def test_another_seed_is_another_run(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(words(images, tmp_path, "--epochs", "1")) == run.DONE
    capsys.readouterr()
    said = refused(words(images, tmp_path, "--epochs", "1", "--seed", "3"), capsys)
    assert "its seed is 0, not 3" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--arch", "test_vitt"], "Did you mean test_vit"),
        (["--method", "mea"], "Did you mean mae"),
        (["--recipe", "smok"], "Did you mean smoke"),
        (["--accumulate", "3"], "A batch of 4 cannot be shared equally"),
        (["--accumulate", "0"], "--accumulate 0: give at least 1"),
        (["--seed", "-1"], "--seed -1: give at least 0"),
        (["--mask-ratio", "1"], "mask ratio 1.0"),
        (["--similarity", "cross-entropy"], "cannot be combined"),
        (["--images", "13"], "--images 13"),
        (["--augmentation", "simmin"], "Did you mean simmim"),
        (["--augmentation", "deit"], "deit mixes images and their labels"),
    ],
)
def test_a_wrong_request_is_one_paragraph(
    given: list[str], said: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(words(images, tmp_path, *given), capsys)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_labels_that_are_not_there(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = images / "class0"
    said = refused(words(flat, tmp_path, method="supervised"), capsys)
    assert "need labels, and class0 has none" in said


def test_a_dry_run_makes_nothing(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(words(images, tmp_path / "out", "--dry-run")) == run.DONE
    said = capsys.readouterr().out
    assert "visible-pixels x pixel-l2" in said
    assert "rate 1.56e-05" in said  # 1e-3 x 4 / 256
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    code = "import sys, pathlib; from pretrain.job import claim; claim(pathlib.Path(sys.argv[1]), {}).__enter__()"
    with job.claim(tmp_path, {}):
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert "Another process is training in" in other.stderr
