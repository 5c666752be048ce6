"""How alike the layers of a backbone are: debiased CKA between all of them.

    python -m bench.run --backbone A B --task analysis/similarity
    python -m adapters.analysis.pair RECORD_OF_A.json RECORD_OF_B.json --out a-and-b.png

A record holds the matrix, a row a layer, and beside it lie its heat map and the Gram matrices from which
`pair` finds the similarity between two backbones, without their weights or the images.
"""

import time

import numpy as np

from adapters.analysis.protocol import Layout
from bench.tasks import Job, Outcome, Selection

GRAMS = "grams.npz"


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Measure the job's backbone; raises UserError for features that are the same for all images."""
    from adapters.analysis import pictures, whole_images

    started = time.perf_counter()
    found = whole_images.analysed(job, layout, attention=False)
    matrix = found.cka.numpy()
    pictures.similarity(matrix, job)
    grams = {f"batch{index}": batch.numpy() for index, batch in enumerate(found.grams)}
    np.savez_compressed(pictures.place(job, GRAMS), **grams)
    return Outcome(
        metrics=metrics(matrix),
        load_report=found.load_report,
        selection=Selection(selected_on=None, reported_on=layout.images),
        train_seconds=0.0,
        eval_seconds=time.perf_counter() - started,
        images_per_second=found.images / found.seconds,
        curves={f"CKA/{layer}": row.tolist() for layer, row in enumerate(matrix)},
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
