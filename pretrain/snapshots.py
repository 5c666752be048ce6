"""The encoder of a pretraining at work, as weights files: what `bench.run --watch OUT` evaluates as they appear."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from pretrain.export import export
from pretrain.training import trained

FOLDER = "snapshots"


class Snapshots(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Exports every `epochs` epochs but the last, whose encoder is the run's own product.

    A file's content follows from the weights at that epoch, so one that a killed process left is the same.
    """

    def __init__(self, epochs: int, header: Mapping[str, str]) -> None:
        """`header` is the final file's; a snapshot's says its own name and epochs."""
        self.epochs, self.header = epochs, header

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """At the end of an epoch that it is time for."""
        schedule, done = runner.train_loop.schedule, runner.iter + 1
        each = self.epochs * schedule.updates_per_epoch * schedule.accumulate
        if runner.rank or done % each or done == runner.max_iters:
            return
        epoch = str(done // each * self.epochs)
        path = Path(runner.work_dir) / FOLDER / f"epoch-{epoch.zfill(4)}.safetensors"
        path.parent.mkdir(exist_ok=True)
        own = {"name": f"{self.header['name']}-epoch-{epoch}", "epochs": epoch}
        if not path.exists():
            model = trained(runner)
            header = {**self.header, **own}
            export(model.encoder(), path, header, model.siamese.mask_token)
