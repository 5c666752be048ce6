"""Survey which timm architectures satisfy the feature contract: the table of `bench.backbones.architectures`.

Every architecture is built and returns its maps on the meta device, so only shapes are computed. The smallest of
each family is also run on an image. Nothing is downloaded.

    python -m tools.supported_models --write
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn import functional as F

from bench.backbones.architectures import HEAD, TABLE, signature, size_signature
from bench.backbones.extract import FeatureExtractor
from bench.backbones.timm_models import OutsideContractError, create
from bench.errors import UserError

PAGE = Path(__file__).parents[1] / "docs" / "supported-models.md"
MARKS = {
    "unnormed": (
        "n",
        "plain, its final norm after the pooling or absent: maps are the blocks' outputs, not normed",
    ),
    "fixed": ("s", "accepts one image size, to which smaller images are padded: load it with img_size"),
    "ungrouped": ("l", "layer decay is refused: timm assigns some or all of its parameters to no layer"),
    "ran": ("r", "run with random weights when this page was generated"),
}

Row = dict[str, Any]


def write() -> None:
    """Regenerate the table and the page."""
    names = timm.list_models()
    console = Console(stderr=True)
    rows = {name: survey(name) for name in track(names, "surveying", console=console)}
    for name in _smallest(rows):
        run(name)
        rows[name]["ran"] = True
    save(rows)


def save(rows: Mapping[str, Row]) -> None:
    """Write the table, an architecture a line, and its page."""
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    head = f'{{"timm": "{timm.__version__}", "architectures": {{\n'
    TABLE.write_text(head + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


def survey(arch: str) -> Row:
    """What the table holds of an architecture; no key stands for "no".

    family: timm's module. signature, sized: see `bench.backbones.architectures`. tags: how many sets of weights
    timm publishes. tensors: how many numbers are in the encoder's. outside: why it is outside the
    contract. unnormed, fixed, ungrouped: see MARKS.
    """
    with torch.device("meta"):
        model, _ = create(arch)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    row: Row = {
        "family": type(model).__module__.rpartition(".")[2],
        "signature": signature(shapes),
        "sized": size_signature(shapes),
        "tags": len(timm.list_models(f"{arch}.*", pretrained=True)),
        "tensors": sum(math.prod(s) for k, s in shapes.items() if not HEAD.match(k)),
    }
    try:
        extractor = _extractor(arch, model)
    except OutsideContractError as error:
        return row | {"outside": error.reason}
    found = {
        "unnormed": extractor.plain and not extractor.normed,
        "fixed": extractor.fixed_size is not None,
        "ungrouped": not _grouped(extractor),
    }
    return row | {mark: True for mark, applies in found.items() if applies}


def _extractor(arch: str, on_meta: nn.Module) -> FeatureExtractor:
    try:
        with torch.device("meta"):
            return FeatureExtractor(on_meta, arch=arch)
    except OutsideContractError as error:
        if "meta tensors" not in error.reason:
            raise
    return FeatureExtractor(create(arch)[0], arch=arch)  # shapes that depend on values


def _grouped(extractor: FeatureExtractor) -> bool:
    """Whether every parameter is in a layer of the encoder."""
    try:
        layers, number = extractor.layer_groups()
    except UserError:
        return False
    return number not in layers.values()


def _smallest(rows: Mapping[str, Row]) -> Iterable[str]:
    """The smallest architecture of each family, of those inside the contract."""
    smallest: dict[str, str] = {}
    inside = (name for name, row in rows.items() if "outside" not in row)
    for name in sorted(inside, key=lambda name: rows[name]["tensors"]):
        smallest.setdefault(rows[name]["family"], name)
    return smallest.values()


def run(arch: str) -> None:
    """Check an architecture on random weights: finite maps, with the image's corners where they belong.

    Deeper maps may mix the whole image; of the first one, the quarter with the largest change is the
    one whose corner of the image was changed.
    """
    extractor = FeatureExtractor(create(arch, seed=0)[0], arch=arch).eval()
    step = extractor.largest_stride
    height, width = extractor.fixed_size or (4 * step, 6 * step)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, height, width, generator=generator)
    near = (slice(step), slice(-step, None))
    with torch.inference_mode():
        before = extractor(image)
        assert all(m.isfinite().all() and m.std() > 0 for m in before), arch
        for corner, (rows, columns) in enumerate(itertools.product(near, near)):
            marked = image.clone()
            marked[..., rows, columns] += torch.randn(3, step, step, generator=generator)
            change = (extractor(marked)[0] - before[0]).norm(dim=1)
            found = int(F.adaptive_max_pool2d(change, 2).argmax())
            assert found == corner, f"{arch}: corner {corner} shows in quarter {found}"


def page(rows: Mapping[str, Row]) -> str:
    """The page of the table, in Markdown: every architecture once."""
    families: dict[str, list[str]] = {}
    for name, row in rows.items():
        families.setdefault(row["family"], []).append(name)
    inside = sum("outside" not in row for row in rows.values())
    marks = "\n".join(f"- **{mark}**: {meaning}" for mark, meaning in MARKS.values())
    counted, listed, outside = [], [], []
    for family, names in sorted(families.items()):
        good = [name for name in names if "outside" not in rows[name]]
        counted.append(f"| {family} | {len(good)} | {len(names) - len(good) or ''} |")
        if good:
            listed.append(f"**{family}**: {', '.join(_marked(name, rows[name]) for name in good)}")
        outside += _reasons(family, rows, [name for name in names if name not in good])
    return PROLOGUE.format(
        version=timm.__version__,
        inside=inside,
        all=len(rows),
        marks=marks,
        counted="\n".join(counted),
        listed="\n\n".join(listed),
        outside="\n".join(outside),
    )


def _marked(name: str, row: Row) -> str:
    marks = " ".join(mark for key, (mark, _) in MARKS.items() if row.get(key))
    return f"`{name}`" + (f" ({marks})" if marks else "")


def _reasons(family: str, rows: Mapping[str, Row], names: list[str]) -> list[str]:
    """A line for each reason, in the words of the first architecture that it holds for."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        kind = "".join(letter for letter in rows[name]["outside"] if not letter.isdigit())
        reasons.setdefault(kind[:40], []).append(name)
    return [
        f"- **{family}**: {rows[alike[0]]['outside'].rstrip('.')}: {', '.join(f'`{n}`' for n in alike)}"
        for alike in reasons.values()
    ]


PROLOGUE = """# Supported models

Generated by `python -m tools.supported_models --write` with timm {version}; do not edit.

**{inside} of timm's {all} architectures** are inside the feature contract (`bench.backbones.extract`):
NCHW maps at the stated strides and channels for any image size, tokens with a known number of prefix tokens,
layer groups from the stem to the last block. Any of them can be a `--backbone`. The contract's own check, a 1:2
image, ran on every architecture on the meta device (shapes only), and on the smallest of each family with random
weights as well.

{marks}

| family (timm's module) | inside | outside |
|---|---:|---:|
{counted}

## Inside

{listed}

## Outside

The reason is the check's message for the first architecture of each list.

{outside}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the table and the page of it."""
    parser = argparse.ArgumentParser(prog="python -m tools.supported_models", description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="regenerate both files")
    parser.parse_args(argv)
    write()


if __name__ == "__main__":
    main()
