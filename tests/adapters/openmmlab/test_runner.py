"""The runner on a real, tiny segmentor."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import mmengine.runner.runner
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tiny_segmentor import EPOCHS, config, job, write_images

from adapters.openmmlab.runner import JobRunner, bind, precision, run
from bench.errors import UserError
from bench.training import hooks

DWELL = 0.05  # seconds in each epoch and each write of a run that is to be killed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return dict(run(config(data), job(tmp_path_factory.mktemp("undisturbed"))).metrics)


def test_leaves_config_and_log_and_no_checkpoint(data: Path, tmp_path: Path, capfd: Any) -> None:
    outcome = run(config(data), job(tmp_path), checkpoint_seconds=0)

    assert outcome.train_seconds > 0
    assert outcome.images_per_second > 0
    assert outcome.metrics["mIoU"] > 50, "a bright and a dark half are easy to distinguish"
    assert (tmp_path / "config.py").is_file()
    assert "mIoU" in (tmp_path / "run.log").read_text()
    assert not list(tmp_path.rglob("*.pth"))
    assert capfd.readouterr().out == ""


@pytest.mark.long
def test_seed_decides_and_workers_do_not(data: Path, tmp_path: Path, undisturbed: dict[str, float]) -> None:
    two_workers = run(config(data), job(tmp_path / "a", workers=2)).metrics
    other_seed = run(config(data), job(tmp_path / "b", seed=1)).metrics

    assert two_workers == undisturbed
    assert other_seed != undisturbed


def start(data: Path, work_dir: Path, log: Path) -> multiprocessing.Process:
    """Run in a forked process: importing OpenMMLab again takes many seconds."""
    process = multiprocessing.get_context("fork").Process(target=tell_and_run, args=(data, work_dir, log))
    process.start()
    return process  # type: ignore[return-value]


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.is_file() else []


KILLED = {"epoch 1": 4, "write 1": 4, "epoch 2": 3, "write 2": 3, "epoch 4": 1, "test": 0}


@pytest.mark.long
@pytest.mark.parametrize(("moment", "left"), KILLED.items())
def test_killed_run_ends_with_the_numbers_of_the_undisturbed(
    data: Path, tmp_path: Path, undisturbed: dict[str, float], moment: str, left: int
) -> None:
    """`left` epochs remain after a kill in the middle of `moment`, and no more are trained."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    process = start(data, tmp_path / "work", first)
    while moment not in lines(first):
        assert process.is_alive(), "it ended before the moment came"
        time.sleep(0.002)
    process.kill()
    process.join()

    process = start(data, tmp_path / "work", second)
    process.join()
    assert process.exitcode == 0
    assert json.loads(lines(second)[-1]) == undisturbed
    assert sum(line.startswith("epoch") for line in lines(second)) == left
    assert float(lines(second)[-2]) > EPOCHS * DWELL, "the first process's training costs too"


def test_truncated_checkpoint_is_not_trusted(
    data: Path, tmp_path: Path, undisturbed: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / hooks.NAME).write_bytes(b"PK\x03\x04 half a file")

    assert run(config(data), job(tmp_path)).metrics == undisturbed
    assert "starts over" in caplog.text


def run_out_of_disk(data: Path, folder: Path) -> None:
    """Fail to write after epoch 3: a folder in the temporary file's place stands for a full disk."""

    @HOOKS.register_module(force=True)
    class Block(Hook):
        def before_train_epoch(self, runner: Any) -> None:
            if runner.epoch + 1 == 3:
                (folder / f".{hooks.NAME}").mkdir()

    blocked = {**config(data), "custom_hooks": [{"type": "Block"}]}
    with pytest.raises(UserError, match=r"cannot be written .* after epoch 3.*same command again"):
        run(blocked, job(folder), checkpoint_seconds=0)
    (folder / f".{hooks.NAME}").rmdir()


def test_full_disk_keeps_the_checkpoint_before(data: Path, tmp_path: Path, undisturbed: dict[str, float]) -> None:
    run_out_of_disk(data, tmp_path)

    assert torch.load(tmp_path / hooks.NAME, weights_only=False)["meta"]["epoch"] == 2
    assert run(config(data), job(tmp_path)).metrics == undisturbed


def test_checkpoint_of_another_model_is_refused(data: Path, tmp_path: Path) -> None:
    run_out_of_disk(data, tmp_path)
    other = config(data)
    other["model"]["decode_head"]["num_classes"] = 5

    with pytest.raises(RuntimeError, match=r"size mismatch for decode_head\.conv_seg"):
        run(other, job(tmp_path))


def test_nan_loss_stops_with_the_epoch_and_rate(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged in epoch \d+.*nan.*lower learning rate"):
        run(config(data, lr=1e30), job(tmp_path))


def test_too_few_images_for_one_batch(data: Path, tmp_path: Path) -> None:
    few = config(data)
    few["train_dataloader"]["batch_size"] = 10

    with pytest.raises(UserError, match="9 images, fewer than one batch of 10"):
        run(few, job(tmp_path))


def test_user_error_in_a_worker_is_one_paragraph(data: Path, tmp_path: Path) -> None:
    broken = config(data)
    broken["train_dataloader"]["dataset"]["pipeline"].insert(0, {"type": "RefuseEverything"})

    with pytest.raises(UserError) as caught:
        run(broken, job(tmp_path, workers=1))
    assert str(caught.value) == "The image x.png is damaged."


def test_mixed_precision_on_cuda_alone() -> None:
    assert precision("cpu") == {"type": "OptimWrapper"}
    assert precision("cuda")["type"] == "AmpOptimWrapper"
    assert precision("cuda")["dtype"] == "bfloat16"


def test_binding_leaves_the_pure_config_alone(data: Path, tmp_path: Path) -> None:
    pure = config(data)
    before = json.dumps(pure)
    bound = bind(pure, job(tmp_path, workers=3))

    assert json.dumps(pure) == before
    assert bound.train_dataloader.num_workers == 3
    assert bound.model.data_preprocessor.mean == bound.model.data_preprocessor.std == [127.5] * 3
    assert type(JobRunner.from_cfg(bound).build_optim_wrapper(bound.optim_wrapper)).__name__ == ("OptimWrapper")


def register() -> None:
    from mmseg.registry import TRANSFORMS

    @TRANSFORMS.register_module(force=True)
    class RefuseEverything:
        def __call__(self, results: dict[str, Any]) -> None:
            raise UserError("The image x.png is damaged.")


register()


def tell_and_run(data: Path, work_dir: Path, log: Path) -> None:
    """Run, saying line by line what is under way and dwelling there, so that a kill comes inside."""
    torch.set_num_threads(1)
    file = log.open("a", buffering=1)

    def report(moment: str) -> None:
        file.write(f"{moment}\n")
        time.sleep(DWELL)

    @HOOKS.register_module(force=True)
    class Tell(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if batch_idx == 1:
                report(f"epoch {runner.epoch + 1}")

        def before_test(self, runner: Any) -> None:
            report("test")

    save = mmengine.runner.runner.save_checkpoint

    def save_slowly(checkpoint: Any, path: str, **kwargs: Any) -> None:
        save(checkpoint, path, **kwargs)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        report(f"write {checkpoint['meta']['epoch']}")
        Path(path).write_bytes(whole)

    mmengine.runner.runner.save_checkpoint = save_slowly
    reporting = {**config(data), "custom_hooks": [{"type": "Tell"}]}
    outcome = run(reporting, job(work_dir), checkpoint_seconds=0)
    file.write(f"{outcome.train_seconds}\n{json.dumps(dict(outcome.metrics))}\n")
