"""CKA between the layers of two backbones, from their records of `analysis/similarity`.

    python -m adapters.analysis.pair RECORD_OF_A.json RECORD_OF_B.json [--out PICTURE.png]

CKA needs only each backbone's Gram matrices for the same images, which are next to its record. Records must have equal
digests and seeds, which implies equal images. The output has a row per layer of A and a column per layer of B.
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
    """Return CKA [layers of one, layers of two] as an array; raises UserError for records that cannot be compared."""
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
            f"The Gram matrices {path} are not there. They are written next to every record of analysis/similarity: "
            f"copy them together, or delete the record and run again."
        )
    return np.load(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the matrix, and plot it with --out."""
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
    sys.stdout.write(f"CKA: a row per layer of {names[0]}, a column per layer of {names[1]}\n")
    sys.stdout.write("".join(" ".join(f"{v:5.2f}" for v in row) + "\n" for row in matrix))
    if given.out:
        pictures.heat_map(matrix, names[1], names[0], "CKA between layers", given.out)
        sys.stdout.write(f"{given.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
