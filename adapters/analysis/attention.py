"""How far, how sharply and how variously the heads of a backbone attend (Dark Secrets of MIM).

    python -m bench.run --backbone vit_base_patch16_224@mae_pretrain_vit_base.pth --task analysis/attention

Of every head: the averaged attention distance, in input pixels; the entropy of its rows, in nats; and the
mean KL divergence of its rows from those of the block's other heads. Uniform attention among 14 x 14
patches of 16 pixels is at 116.5 pixels and ln 196; heads that are alike have 0. Windowed attention
(Swin, SwinV2, Hiera) is measured inside its windows, at input pixels.
"""

import time
from typing import Any

from adapters.analysis.protocol import Layout
from bench.tasks import Job, Outcome, Selection

LAST = 3  # blocks, in which supervised backbones' heads become alike


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Measure the job's backbone; raises UserError for one without attention."""
    from adapters.analysis import pictures, whole_images

    started = time.perf_counter()
    found = whole_images.analysed(job, layout, attention=True)
    assert found.heads is not None
    pictures.heads(found.heads, job)
    return Outcome(
        metrics=metrics(found.heads),
        load_report=found.load_report,
        selection=Selection(selected_on=None, reported_on=layout.images),
        train_seconds=0.0,
        eval_seconds=time.perf_counter() - started,
        images_per_second=found.images / found.seconds,
        curves={f"{what}/{block}": heads for what, blocks in found.heads.items() for block, heads in enumerate(blocks)},
    )


def metrics(heads: dict[str, list[list[float]]]) -> dict[str, float]:
    """The mean over heads and blocks, over the last three blocks, and of each block."""
    found: dict[str, float] = {}
    for what, blocks in heads.items():
        means = [sum(block) / len(block) for block in blocks]
        found |= {what: _mean(means), f"{what}_last3": _mean(means[-LAST:])}
        found |= {f"{what}/{index}": mean for index, mean in enumerate(means)}
    return found


def _mean(values: Any) -> float:
    return float(sum(values) / len(values))
