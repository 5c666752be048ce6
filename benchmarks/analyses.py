"""Attention, similarity and occlusion (10 ratios) of a ViT-B/16 beside the forward passes that they need.

    make bench
    PYTHONPATH=. python benchmarks/analyses.py --images 1000 --batch-size 32

The bare side runs the model ten times on every minibatch: on whole images, and at nine mask ratios. The
analyses run it eleven times, because attention and similarity share one process and occlusion has its
own; and read attention, sum CKA and cosines on the way. Both take turns minibatch by minibatch, in
either order. Peak memory is that of this process after a minibatch of 32.
"""

import argparse
import resource
import statistics
import sys
import time

import torch
from torch import Tensor, nn

from adapters.analysis import ATTENTION, OCCLUSION
from adapters.analysis.attention import AttentionReader, AttentionStatistics
from adapters.analysis.hiding import visible_cells
from adapters.analysis.layers import LayerReader
from adapters.analysis.occlusion import Curves
from adapters.analysis.similarity import CKA, centred_grams
from bench.backbones.build import build
from bench.processes import keep_memory

ARCH, FULL_BATCH, CELLS = "vit_base_patch16_224", 32, (7, 7)


class Analyses:
    """All three, on one model."""

    def __init__(self, model: nn.Module) -> None:
        """Start from nothing."""
        self.reader, self.similarity = LayerReader(model), CKA()
        self.statistics, self.curves = AttentionStatistics(ATTENTION), Curves(OCCLUSION.ratios)
        self.watch = AttentionReader(model, ARCH, self.statistics.see)

    def whole(self, images: Tensor) -> None:
        """The pass of attention and similarity."""
        layers, _ = self.reader(images, watch=self.watch)
        self.similarity.update(centred_grams([layer.pooled for layer in layers]))

    def occluded(self, images: Tensor, ratios: tuple[float, ...] = OCCLUSION.ratios) -> None:
        """The pass of occlusion."""
        layers, _ = self.reader(images)
        self.curves.starts(layers)
        for ratio in ratios:
            shown = hidden(images, ratio)
            found = self.reader(images * shown[:, None])[0] if ratio else layers
            self.curves.add(ratio, found, shown, None)


def hidden(images: Tensor, ratio: float) -> Tensor:
    """What is to be seen of each image [b, h, w]."""
    cells = visible_cells(ratio, images, CELLS, torch.arange(len(images)))
    return cells.repeat_interleave(32, 1).repeat_interleave(32, 2)


def bare(model: nn.Module, images: Tensor) -> float:
    """Seconds of the forward passes that are needed."""
    started = time.perf_counter()
    with torch.inference_mode():
        for ratio in OCCLUSION.ratios:
            model(images * hidden(images, ratio)[:, None] if ratio else images)
    return time.perf_counter() - started


def analysed(analyses: Analyses, images: Tensor) -> float:
    """Seconds of the analyses."""
    started = time.perf_counter()
    analyses.whole(images)
    analyses.occluded(images)
    return time.perf_counter() - started


def main() -> None:
    """Print the median seconds a minibatch, the ratio of neighbours, and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    given = parser.parse_args()
    keep_memory()  # as analyses do; the bare passes gain by it too
    torch.manual_seed(0)
    model, _ = build(ARCH, num_classes=0)
    analyses = Analyses(model.eval())
    pairs = []
    for start in range(0, given.images, given.batch_size):
        batch = torch.randn(min(given.batch_size, given.images - start), 3, 224, 224)
        if start == 0:
            with torch.inference_mode():
                model(batch)
        sides = [lambda b=batch: bare(model, b), lambda b=batch: analysed(analyses, b)]
        order = (0, 1) if len(pairs) % 2 == 0 else (1, 0)
        taken = {side: sides[side]() for side in order}
        pairs.append((taken[0], taken[1]))
        sys.stderr.write(f"{start + len(batch)} images: {taken[0]:.1f} and {taken[1]:.1f} s\n")
    one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [b / a for a, b in pairs]
    whole = sum(b for _, b in pairs) / sum(a for a, _ in pairs)
    sys.stdout.write(
        f"{ARCH}, {given.images} images in minibatches of {given.batch_size}: ten bare passes {one:.1f} s, the "
        f"analyses {two:.1f} s: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{whole:.2f} in all\n"
    )
    full = torch.randn(FULL_BATCH, 3, 224, 224)
    analyses.whole(full)
    analyses.occluded(full, (0.0, 0.5))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    sys.stdout.write(f"peak memory with minibatches of {FULL_BATCH}: {peak:.2f} GB\n")


if __name__ == "__main__":
    main()
