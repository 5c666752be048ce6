import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from small_runs import Weights, equal, train

from bench.errors import UserError
from bench.training import hooks as checkpointing
from pretrain.training import CHECKPOINTS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def undisturbed(one_thread: None, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Of a run that writes one checkpoint, in the end."""
    return train(images, tmp_path_factory.mktemp("undisturbed"), accumulate=2, seconds=1e9)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(Hook):
    """Ends the process, by SIGKILL, at a point of an iteration."""

    def __init__(self, iteration: int, point: str) -> None:
        self.iteration = iteration
        setattr(self, point, self._at)

    def _at(self, runner: Any, **_: Any) -> None:
        if runner.iter != self.iteration:
            return
        die()


def dies_before_rename(iteration: int) -> None:
    """The file of that checkpoint is written, and has no name yet."""
    settle = checkpointing.replace_durably

    def dying(temporary: Path, path: Path) -> None:
        die() if f"{iteration:09d}" in path.name else settle(temporary, path)

    checkpointing.replace_durably = dying


def dies_within_write(iteration: int) -> None:
    """Half of the file of that checkpoint is written."""
    save = Runner.save_checkpoint

    def dying(self: Any, folder: str, name: str, **settings: Any) -> None:
        save(self, folder, name, **settings)
        if f"{iteration:09d}" in name:
            path = Path(folder) / name
            os.truncate(path, path.stat().st_size // 2)
            die()

    Runner.save_checkpoint = dying


def killed(function: Callable[[], object]) -> None:
    """Run in a process of its own, which has to die by SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.parametrize(
    "kills",
    [
        lambda: [Dying(0, "before_train_iter")],
        lambda: [Dying(5, "before_train_iter")],  # within an update of two parts
        lambda: [Dying(6, "after_train_iter")],
        lambda: dies_within_write(4),
        lambda: dies_before_rename(8),
    ],
    ids=["before anything", "within an update", "after a step", "half a file", "nameless file"],
)
def test_a_killed_run_ends_with_the_same_weights(
    kills: Callable[[], list[Hook] | None], images: Path, tmp_path: Path, undisturbed: Weights
) -> None:
    killed(lambda: train(images, tmp_path, accumulate=2, hooks=kills() or ()))
    assert equal(train(images, tmp_path, accumulate=2), undisturbed)
    assert not list(tmp_path.glob(".checkpoint-*"))


def test_a_run_killed_again_and_again_ends_with_the_same_weights(
    images: Path, tmp_path: Path, undisturbed: Weights
) -> None:
    for iteration in (3, 4, 9, 11):
        hooks = [Dying(iteration, "after_train_iter")]
        killed(lambda hooks=hooks: train(images, tmp_path, accumulate=2, hooks=hooks))
    assert equal(train(images, tmp_path, accumulate=2), undisturbed)


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [torn, flipped, empty])
def test_a_damaged_newest_checkpoint_is_passed_over(
    damage: Callable[[Path], None], images: Path, tmp_path: Path, undisturbed: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    killed(lambda: train(images, tmp_path, accumulate=2, hooks=[Dying(8, "before_train_iter")]))
    damage(tmp_path / "checkpoint-000000008.pth")
    with caplog.at_level(logging.WARNING, "bench.training.hooks"):
        assert checkpointing.newest_checkpoint(tmp_path, CHECKPOINTS) == tmp_path / "checkpoint-000000006.pth"
    assert "checkpoint-000000008.pth is damaged" in caplog.text
    assert equal(train(images, tmp_path, accumulate=2), undisturbed)


def test_the_last_checkpoints_are_kept(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path, keep=3)
    names = sorted(path.name for path in tmp_path.glob("*checkpoint*"))
    assert names == [f"checkpoint-{k:09d}.pth" for k in (4, 5, 6)]


class Blocked(Hook):
    """Something lies where the second checkpoint is to be written."""

    def before_train_iter(self, runner: Any, batch_idx: int, **_: Any) -> None:
        if batch_idx == 1:
            (Path(runner.work_dir) / ".checkpoint-000000002.pth").mkdir()


def test_a_checkpoint_that_cannot_be_written_is_said(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint-000000002\.pth cannot be written"):
        train(images, tmp_path, hooks=[Blocked()])
    assert checkpointing.newest_checkpoint(tmp_path, CHECKPOINTS) == tmp_path / "checkpoint-000000001.pth"
