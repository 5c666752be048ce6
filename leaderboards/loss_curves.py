"""Plot the classification and localisation losses of detection runs from their records (Dark Secrets of MIM).

    python -m leaderboards.loss_curves RECORD.json [RECORD.json ...] --out losses.png

One line per record, one colour per backbone. The lines are moving means; their width is in the title.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records import Result, Store, weights8

PANELS = {"cls": "classification loss", "bbox": "localisation loss"}
SUFFIXES = (".png", ".pdf", ".svg")
AXES = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
STYLE: dict[Any, Any] = AXES | {"grid.color": "#e2e8f0", "font.size": 9, "svg.hashsalt": ""}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 for a wrong request."""
    args = _parser().parse_args(argv)
    try:
        draw([Store(path.parent).read(path) for path in args.records], args.out, args.smooth)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    print(args.out)  # noqa: T201
    return 0


def draw(records: Sequence[Result], out: Path, smooth: int | None = None) -> None:
    """Draw both losses into the file `out`, as means over `smooth` iterations (default: a twentieth of all).

    Raises UserError for records without these curves, records that are not comparable, or an unwritable file.
    """
    _check(records, out, smooth)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    width = smooth or max(1, max(len(record.curves["cls"]) for record in records) // 20)
    names = list(dict.fromkeys(map(_name, records)))
    run = f"{records[0].task}, {records[0].protocol['name']} (digest {records[0].digest[:8]})"
    title = f"{run}; moving mean over {width} iteration{'' if width == 1 else 's'}"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        for axes, (curve, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            for record in records:
                colour = mpl.colormaps["tab10"](names.index(_name(record)) % 10)
                axes.plot(moving_mean(record.curves[curve], width), color=colour, label=_name(record), linewidth=1.2)
            axes.set(xlabel="iteration", ylabel=label, ylim=(0, None))
        lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(lines.values(), lines, loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(title, fontsize=10)
        try:
            figure.savefig(out, dpi=150, metadata={"Software": None} if out.suffix == ".png" else None)
        except OSError as error:
            raise UserError(f"{out} cannot be written ({error.strerror}). Give another file with --out.") from None


def moving_mean(values: Sequence[float], width: int) -> Any:
    """Return the mean of the `width` values around each value, of fewer at both ends."""
    import numpy as np

    sums, at = np.concatenate(([0.0], np.cumsum(values))), np.arange(len(values))
    first, last = np.maximum(at - width // 2, 0), np.minimum(at + (width + 1) // 2, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _name(record: Result) -> str:
    return f"{record.backbone['name']}@{weights8(record.backbone)}"


def _check(records: Sequence[Result], out: Path, smooth: int | None) -> None:
    for record in records:
        where = f"{_name(record)}, {record.task}, {record.protocol['name']}, seed {record.seed}"
        if missing := [name for name in PANELS if not record.curves.get(name)]:
            raise UserError(
                f"The record of {where} has no curve of {' and '.join(missing)}"
                f"{' (its run failed)' if record.status != 'done' else ''}. Give records of finished detection runs."
            )
        if record.digest != records[0].digest:
            raise UserError(
                f"The records are not comparable: {where} has digest {record.digest[:8]}, "
                f"{_name(records[0])} has {records[0].digest[:8]}. Give records of one task, protocol and digest."
            )
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: the file name must end in {', '.join(SUFFIXES)}.")
    if smooth is not None and smooth < 1:
        raise UserError(f"--smooth {smooth}: give 1 iteration or more.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leaderboards.loss_curves",
        description="Plot the classification and localisation losses of detection runs in one picture.",
    )
    add = parser.add_argument
    add("records", nargs="+", type=Path, metavar="RECORD.json", help="records of one task and digest")
    add("--out", type=Path, required=True, metavar="FILE.png", help="file of the picture: .png, .pdf or .svg")
    add("--smooth", type=int, metavar="N", help="iterations in the moving mean (default: a twentieth of all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
