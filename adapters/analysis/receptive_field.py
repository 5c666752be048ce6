"""Effective receptive field of every stage, by the gradient (Luo et al., arXiv 1701.04128).

    python -m bench.run --backbone resnet50.a1_in1k --task analysis/receptive-field

The field of a stage (block of a plain ViT) is |d central feature / d pixel|, averaged over images and colours.
`ERF`, in pixels, is the square root of the number of pixels above 4.55 % of the largest value; `ERF_distance`,
comparable to attention's distance, is the field's mean distance from the centre. It is defined for every backbone.
"""

import time
from typing import Any

import torch
from torch import Tensor

from adapters.analysis import sample
from adapters.analysis.attention import grid
from adapters.analysis.protocol import Layout
from bench.errors import UserError
from bench.tasks import Job, Outcome, Selection


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Measure the receptive fields of the job's backbone."""
    from adapters.analysis import pictures

    started = time.perf_counter()
    model, report = sample.load(job)
    drawn = sample.draw(job, layout)
    fields: Tensor | float = 0.0
    images = 0
    for batch, _ in sample.batches(drawn.images, job, "images"):
        fields = fields + gradients(model, batch)
        images += len(batch)
    assert isinstance(fields, Tensor)
    fields = (fields / images).cpu()
    measured = [measure(field, job.protocol.threshold) for field in fields]
    pictures.receptive_fields(fields.numpy(), [size for size, _ in measured], job)
    seconds = time.perf_counter() - started
    return Outcome(
        metrics=metrics(measured),
        load_report=report,
        selection=Selection(selected_on=None, reported_on=layout.images),
        train_seconds=0.0,
        eval_seconds=seconds,
        images_per_second=images / seconds,
    )


def gradients(model: Any, images: Tensor) -> Tensor:
    """Return |d central feature / d pixel|, float64 [stages, h, w], for images [b, 3, h, w], summed over b."""
    pixels = images.detach().clone().requires_grad_(True)
    maps = model.forward_intermediates(pixels, intermediates_only=True)
    found = []
    for place, each in enumerate(maps):
        centre = each[..., each.shape[2] // 2, each.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(centre, pixels, retain_graph=place + 1 < len(maps))
        found.append(gradient.abs().mean(1).double().sum(0))
    return torch.stack(found)


def measure(field: Tensor, threshold: float) -> tuple[float, float]:
    """Return the size and the mean distance, in pixels, of a field [h, w]; raises UserError where it is 0."""
    if not field.max() > 0:
        raise UserError(
            "No pixel changes the central feature of a stage: its gradient is 0 everywhere, so its receptive field is "
            "undefined. The weights are damaged, or a layer is zero. Check the weights."
        )
    rows, columns = field.shape
    places = grid(rows, columns, (rows, columns)).double()
    centre = torch.tensor([rows / 2, columns / 2], dtype=torch.float64)
    distance = (field * (places - centre).norm(dim=-1)).sum() / field.sum()
    return float((field > threshold * field.max()).sum()) ** 0.5, float(distance)


def metrics(measured: list[tuple[float, float]]) -> dict[str, float]:
    """Return the last stage's size and distance, and those of every stage."""
    found = {"ERF": measured[-1][0], "ERF_distance": measured[-1][1]}
    for stage, (size, distance) in enumerate(measured):
        found |= {f"ERF/{stage}": size, f"ERF_distance/{stage}": distance}
    return found
