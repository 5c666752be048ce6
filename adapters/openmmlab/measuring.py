"""What a run keeps of its training: the curves of its losses, and the time it waited for images."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

CURVES, WAITED = (
    "loss_curves",
    "seconds_waited",
)  # in mmengine's message hub, which a checkpoint holds


@HOOKS.register_module()
class MeasuringHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Adds terms of the loss to named curves, one value an iteration, and times the data loader.

    A curve lives in the checkpoint, so that of a resumed run is whole. Waiting is the time between
    two steps: fetching a batch, and starting the workers of an epoch.
    """

    priority = "VERY_LOW"  # what other hooks do after a step is none of the loader's time

    def __init__(self, curves: Mapping[str, Sequence[str]]) -> None:
        """Keep, for each curve, the sum of the terms it names, as the model's `loss` calls them."""
        self.terms = curves

    def before_train(self, runner: Any) -> None:
        """Go on with what a resumed checkpoint holds."""
        hub = runner.message_hub
        self.curves = hub.get_info(CURVES, {name: [] for name in self.terms})
        self.waited = hub.get_info(WAITED, 0.0)

    def before_train_epoch(self, runner: Any) -> None:
        """Start to wait for the first batch."""
        self.since = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """The batch is there."""
        self.waited += time.perf_counter() - self.since

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep the terms, and wait for the next batch."""
        for name, terms in self.terms.items():
            self.curves[name].append(float(sum(outputs[term].detach() for term in terms)))
        self.since = time.perf_counter()

    def after_train_epoch(self, runner: Any) -> None:
        """Hand over to the checkpoint, which is written after this."""
        runner.message_hub.update_info(CURVES, self.curves)
        runner.message_hub.update_info(WAITED, self.waited)
