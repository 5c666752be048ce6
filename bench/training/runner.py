"""mmengine's Runner, kept to one device and one log file: under evaluation and pretraining alike."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn

from bench.training.batch_norm import gather_batch_norm


class DeviceRunner(Runner):  # type: ignore[misc]  # mmengine is untyped
    """A Runner that keeps to its config's `device` and writes its log to a file, not to the terminal."""

    def load_checkpoint(self, filename: str, **settings: Any) -> Any:
        """Refuse a checkpoint of another model; mmengine would only log what does not fit."""
        with contextlib.redirect_stdout(None):  # it prints where from
            return super().load_checkpoint(filename, **{**settings, "strict": True})

    def build_logger(self, log_level: Any = "INFO", log_file: Any = None, **kwargs: Any) -> Any:
        """One `run.log` a run, resumed parts appended; the terminal hears of errors alone."""
        name = "run.log" if self.rank == 0 else f"run-rank{self.rank}.log"
        log = super().build_logger(log_level, str(Path(self.work_dir) / name), **kwargs)
        for handler in log.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return log

    def dump_config(self) -> None:
        """Under one name, so that a resumed run leaves one."""
        if self.rank == 0:
            self.cfg.dump(Path(self.work_dir) / "config.py")

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """mmengine takes CUDA wherever there is one; a single process has no batches to synchronise."""
        assert model_wrapper_cfg is None
        device = torch.device(self.cfg.device)
        if self.world_size == 1:
            return revert_sync_batchnorm(model).to(device)
        cuda = device.type == "cuda"
        # Statistics of the whole batch, as one process has them.
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm if cuda else gather_batch_norm
        model = synchronised(model)
        return MMDistributedDataParallel(
            module=model.to(device),
            device_ids=[device.index] if cuda else None,
            broadcast_buffers=not cuda,
            find_unused_parameters=True,  # a batch without an object trains no mask head
        )
