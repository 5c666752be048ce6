"""How alike the layers of two backbones are, from the records of their `analysis/similarity`.

    python -m adapters.analysis.pair RECORD_OF_A.json RECORD_OF_B.json [--out PICTURE.png]

CKA needs of each backbone no more than its Gram matrices on the same images, which lie beside its record.
Equal digests and seeds say that the images were the same; everything else is refused. What is printed
is a row a layer of A, a column a layer of B.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.analysis import pictures
from adapters.analysis.similarity import CKA, GRAMS
from bench.errors import UserError
from bench.records import Result, Store, sidecar


def between(one: Path, two: Path) -> Any:
    """CKA [layers of one, layers of two], a numpy array; raises UserError for records that cannot be compared."""
    first, second = (Store(path.parent).read(path) for path in (one, two))
    if (first.digest, first.seed) != (second.digest, second.seed) or not _is_similarity(first):
        raise UserError(
            f"{one} ({first.task}, digest {first.digest[:8]}, seed {first.seed}) and {two} ({second.task}, digest "
            f"{second.digest[:8]}, seed {second.seed}) are not of the same images: give two records of "
            f"analysis/similarity of equal digest and seed."
        )
    found = CKA()
    with _grams(one) as rows, _grams(two) as columns:
        for name in rows.files:
            found.update(*(torch.from_numpy(side[name]).double() for side in (rows, columns)))
    return found.value().numpy()


def _is_similarity(record: Result) -> bool:
    return record.task.startswith("analysis/similarity") and record.status == "done"


def _grams(record: Path) -> Any:
    path = sidecar(record, GRAMS)
    if not path.is_file():
        raise UserError(
            f"The Gram matrices {path} are not there. They are written beside every record of analysis/similarity: "
            f"copy them with it, or delete the record and run again."
        )
    return np.load(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the matrix, and draw it."""
    parser = argparse.ArgumentParser(prog="python -m adapters.analysis.pair", description=__doc__)
    parser.add_argument("records", nargs=2, type=Path, metavar="RECORD")
    parser.add_argument("--out", type=Path, metavar="PICTURE.png")
    given = parser.parse_args(arguments)
    try:
        matrix = between(*given.records)
    except UserError as error:
        sys.stderr.write(f"adapters.analysis.pair: {error}\n")
        return 2
    names = [Store(path.parent).read(path).backbone["name"] for path in given.records]
    sys.stdout.write(f"CKA: a row a layer of {names[0]}, a column a layer of {names[1]}\n")
    sys.stdout.write("".join(" ".join(f"{v:5.2f}" for v in row) + "\n" for row in matrix))
    if given.out:
        pictures.heat_map(matrix, names[1], names[0], "CKA between layers", given.out)
        sys.stdout.write(f"{given.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
