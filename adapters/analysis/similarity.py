"""Similarity of layers: debiased linear CKA, summed over minibatches.

    python -m bench.run --backbone A B --task analysis/similarity
    python -m adapters.analysis.pair RECORD_OF_A.json RECORD_OF_B.json --out a-and-b.png

CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the Gram matrices K, L of two sets of features of any widths
(Kornblith et al., arXiv 1905.00414). HSIC is the unbiased estimator HSIC1 (Song et al. 2012), summed over
minibatches before the division (Nguyen et al., arXiv 2010.15327): the biased estimator rises with
width / images, so it overestimates every similarity. All sums are float64.

A record of `analysis/similarity` holds the matrix [layers, layers]. Its sidecars are the heat map and the Gram
matrices, from which `pair` computes the similarity of two backbones without their weights or the images.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError

GRAMS = "grams.npz"  # sidecar of a record
FEWEST = 4  # images of a minibatch: HSIC1 divides by n - 3
ROUNDING = 1e-6  # a spread below this part of the features' size is float32's own


def centred_grams(features: Sequence[Tensor]) -> Tensor:
    """Return the U-centred linear Gram matrices [len(features), n * n] of features [n, d] of n >= 4 images.

    They are scaled so that the dot product of two rows is HSIC1 of the two: U-centring (Szekely & Rizzo
    2014) is equivalent to HSIC1's three terms. Features that are equal for all images give zeros.

    Raises UserError for features that are not finite.
    """
    for layer, each in enumerate(features):
        if not each.isfinite().all():
            raise UserError(
                f"The features of layer {layer} are not finite: the weights are damaged, or their number format "
                f"overflows. Check the weights."
            )
    return torch.stack([_centred_gram(each).flatten() for each in features])


def _centred_gram(features: Tensor) -> Tensor:
    wide = features.flatten(1).double()
    n = len(wide)
    assert n >= FEWEST
    apart = wide - wide.mean(0)  # changes no U-centred value, but loses fewer digits in float64
    if apart.abs().max() <= ROUNDING * wide.abs().max():
        return wide.new_zeros(n, n)
    gram = apart @ apart.T
    gram.fill_diagonal_(0)
    rows = gram.sum(1)
    gram -= (rows[:, None] + rows[None]) / (n - 2)
    gram += rows.sum() / ((n - 1) * (n - 2))
    gram.fill_diagonal_(0)
    return gram / (n * (n - 3)) ** 0.5


class CKA:
    """CKA [rows, columns] between two lists of features, accumulated over minibatches."""

    def __init__(self) -> None:
        """Start with sums of 0."""
        self.images = 0
        self.across: Tensor = torch.zeros(())
        self.rows: Tensor = torch.zeros(())
        self.columns: Tensor = torch.zeros(())

    def update(self, rows: Tensor, columns: Tensor | None = None) -> None:
        """Add a minibatch's `centred_grams` [k, n * n] and [l, n * n]; `columns` defaults to `rows`."""
        columns = rows if columns is None else columns
        n = round(rows.shape[1] ** 0.5)
        self.images += n
        self.across = self.across + n * (rows @ columns.T)
        self.rows = self.rows + n * own(rows)
        self.columns = self.columns + n * own(columns)

    def value(self) -> Tensor:
        """Return the CKA [k, l], float64; raises UserError for features that are equal for all images."""
        for side in (self.rows, self.columns):
            if (bad := (side == 0).nonzero().flatten()).numel():
                raise constant(int(bad[0]))
        return self.across / (self.rows[:, None] * self.columns[None]).sqrt()


def own(grams: Tensor) -> Tensor:
    """Return HSIC1 of each with itself [k], summed as `grams @ grams.T` sums it, so CKA with itself is exactly 1."""
    return (grams @ grams.T).diagonal()


def constant(layer: int) -> UserError:
    """Return the error for a layer whose CKA is 0 / 0."""
    return UserError(
        f"The features of layer {layer} are the same for all images, so their CKA is 0 / 0. The weights are damaged, a "
        f"layer is zero, or all images are equal. Check the weights, or use other images."
    )


def metrics(matrix: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> dict[str, float]:
    """Return the mean CKA of all pairs, of neighbours, and of first and last layer, and each layer's mean."""
    layers = len(matrix)
    apart = ~np.eye(layers, dtype=bool)
    others = {f"CKA/{k}": float(matrix[k][apart[k]].mean()) for k in range(layers)}
    return {
        "CKA": float(matrix[apart].mean()),
        "CKA_neighbours": float(np.diag(matrix, 1).mean()),
        "CKA_first_last": float(matrix[0, -1]),
        **others,
    }
