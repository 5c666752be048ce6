"""How alike the layers of a backbone are: debiased CKA between all of them.

    python -m bench.run --backbone A B --task analysis/similarity
    python -m adapters.analysis.pair RECORD_OF_A.json RECORD_OF_B.json --out a-and-b.png

A record holds the matrix, a row a layer, and beside it lie its heat map and the Gram matrices from which
`pair` finds the similarity between two backbones, without their weights or the images.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError

GRAMS = "grams.npz"
FEWEST = 4  # images of a minibatch: HSIC1 divides by n - 3
ROUNDING = 1e-6  # a spread below this part of the features' size is float32's own


def centred_grams(features: Sequence[Tensor]) -> Tensor:
    """The U-centred linear Gram matrices [len(features), n * n] of features [n, d] of n >= 4 images.

    They are scaled so that the dot product of two rows is HSIC1 of the two: U-centring (Szekely & Rizzo
    2014) says in two lines what HSIC1's three terms do. Features that are all alike give zeros.

    Raises UserError for features that are not finite.
    """
    for layer, each in enumerate(features):
        if not each.isfinite().all():
            raise UserError(
                f"The features of layer {layer} are not finite. The weights are damaged, or of a number format that "
                f"overflows; load and check them."
            )
    return torch.stack([_centred_gram(each).flatten() for each in features])


def _centred_gram(features: Tensor) -> Tensor:
    wide = features.flatten(1).double()
    n = len(wide)
    assert n >= FEWEST
    apart = wide - wide.mean(0)  # moves no U-centred value, and keeps digits
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
    """The CKA [rows, columns] between two lists of features, from minibatches."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.images = 0
        self.across: Tensor = torch.zeros(())
        self.rows: Tensor = torch.zeros(())
        self.columns: Tensor = torch.zeros(())

    def update(self, rows: Tensor, columns: Tensor | None = None) -> None:
        """Add a minibatch's `centred_grams` [k, n * n] and [l, n * n]; without `columns`, rows are both."""
        columns = rows if columns is None else columns
        n = round(rows.shape[1] ** 0.5)
        self.images += n
        self.across = self.across + n * (rows @ columns.T)
        self.rows = self.rows + n * own(rows)
        self.columns = self.columns + n * own(columns)

    def value(self) -> Tensor:
        """The CKA [k, l], float64; raises UserError for features that are alike on all images."""
        for side in (self.rows, self.columns):
            if (bad := (side == 0).nonzero().flatten()).numel():
                raise constant(int(bad[0]))
        return self.across / (self.rows[:, None] * self.columns[None]).sqrt()


def own(grams: Tensor) -> Tensor:
    """HSIC1 of each with itself [k], summed as `grams @ grams.T` sums it: CKA with itself is exactly 1."""
    return (grams @ grams.T).diagonal()


def constant(layer: int) -> UserError:
    """Say that CKA is 0 / 0."""
    return UserError(
        f"The features of layer {layer} are the same for all images, so its similarity is 0 / 0: there is nothing in "
        f"which images differ. The weights are damaged, a layer is zero, or the images are all one; load and check "
        f"them, or give other images."
    )


def metrics(matrix: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> dict[str, float]:
    """The mean CKA of two layers, of neighbours, of the first with the last; each layer's with the others."""
    layers = len(matrix)
    apart = ~np.eye(layers, dtype=bool)
    others = {f"CKA/{k}": float(matrix[k][apart[k]].mean()) for k in range(layers)}
    return {
        "CKA": float(matrix[apart].mean()),
        "CKA_neighbours": float(np.diag(matrix, 1).mean()),
        "CKA_first_last": float(matrix[0, -1]),
        **others,
    }
