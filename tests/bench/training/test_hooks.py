"""Curves and waiting times, on an mmengine message hub that is saved and loaded in between."""

import time
from types import SimpleNamespace

import torch
from mmengine.logging import MessageHub

from bench.training.hooks import CURVES, WAITED, MeasuringHook

TERMS = {"rpn": ("loss_rpn_cls", "loss_rpn_bbox"), "mask": ("loss_mask",)}


def epoch(hook: MeasuringHook, hub: MessageHub, losses: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Train an epoch; return the least and the most seconds that may count as waiting on a machine of any load."""
    runner, start, loader, model = SimpleNamespace(message_hub=hub), time.perf_counter(), 0.0, 0.0
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    for index, values in enumerate(losses):
        loader += slept(0.03)
        hook.before_train_iter(runner, index)
        model += slept(0.05)
        names = ("loss_rpn_cls", "loss_rpn_bbox", "loss_mask")
        outputs = dict(zip(names, map(torch.tensor, values), strict=True))
        hook.after_train_iter(runner, index, outputs=outputs)
    hook.after_train_epoch(runner)
    return loader, time.perf_counter() - start - model


def slept(seconds: float) -> float:
    start = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - start


def test_terms_are_summed_by_iteration_and_only_the_loader_is_waited_for() -> None:
    hub = MessageHub.get_instance("measuring-first")
    least, most = epoch(MeasuringHook(TERMS), hub, [(1.0, 0.5, 3.0), (0.5, 0.25, 2.0)])
    assert hub.get_info(CURVES) == {"rpn": [1.5, 0.75], "mask": [3.0, 2.0]}
    assert least <= hub.get_info(WAITED) <= most

    resumed = MessageHub.get_instance("measuring-resumed")
    resumed.load_state_dict(hub.state_dict())
    more_least, more_most = epoch(MeasuringHook(TERMS), resumed, [(0.25, 0.0, 1.0)])
    assert resumed.get_info(CURVES) == {"rpn": [1.5, 0.75, 0.25], "mask": [3.0, 2.0, 1.0]}
    assert least + more_least <= resumed.get_info(WAITED) <= most + more_most


def test_a_run_without_curves_keeps_none() -> None:
    hub = MessageHub.get_instance("measuring-none")
    epoch(MeasuringHook({}), hub, [(1.0, 0.5, 3.0)])
    assert hub.get_info(CURVES) == {}
