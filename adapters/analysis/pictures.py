"""Pictures of the analyses, drawn into the run's folder, from which they are copied next to its record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from adapters.analysis.cue_conflict import HUMANS, Scores
from bench.records import SIDECARS
from bench.tasks import Job

UNITS = {
    "distance": "attention distance (pixels)",
    "entropy": "entropy (nats)",
    "KL": "KL divergence between heads (nats)",
}
BLUE, DARK = "#2b6cb0", "#1a202c"
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "axes.axisbelow": True,
    "font.size": 9,
}


def sidecar_path(job: Job, name: str) -> Path:
    """Return the path in the run's folder of a file that becomes a sidecar of its record."""
    folder = job.work_dir / SIDECARS
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def title(job: Job) -> str:
    """Return the backbone's name, method and hash of its weights."""
    backbone = job.backbone
    about = dict.fromkeys((backbone.method, backbone.weights8))  # both are "scratch" without weights
    return f"{backbone.name} ({', '.join(about)})"


def heads(found: Mapping[str, Sequence[Sequence[float]]], job: Job) -> None:
    """Plot a dot per head over blocks, as in Dark Secrets (arXiv 2205.13543); the line is a block's mean."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.1), layout="constrained")
        for axes, (what, blocks) in zip(figure.subplots(1, 3), found.items(), strict=True):
            x = [index for index, block in enumerate(blocks) for _ in block]
            y = [value for block in blocks for value in block]
            axes.plot([sum(b) / len(b) for b in blocks], color=DARK, linewidth=0.8, alpha=0.6)
            axes.scatter(x, y, s=11, color=BLUE, alpha=0.75, linewidths=0, zorder=3)
            axes.set(xlabel="block", ylabel=UNITS[what], ylim=(0, None))
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        figure.suptitle(title(job), fontsize=10)
        figure.savefig(sidecar_path(job, "heads.png"), dpi=150)


def similarity(matrix: Any, job: Job) -> None:
    """Plot the heat map of CKA between all layers of a backbone."""
    heat_map(matrix, "layer", "layer", title(job), sidecar_path(job, "similarity.png"))


def heat_map(matrix: Any, x: str, y: str, name: str, path: Path) -> None:
    """Plot CKA [rows, columns] between layers, the first at the lower left; colours from 0 to 1."""
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(4.4, 3.7), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(matrix, origin="lower", cmap="magma", vmin=0, vmax=1)
        axes.set(xlabel=x, ylabel=y)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        figure.colorbar(image, label="CKA", shrink=0.9)
        axes.set_title(name, fontsize=9)
        figure.savefig(path, dpi=150, bbox_inches="tight")


def occlusion(
    ratios: Sequence[float],
    curves: Mapping[str, Mapping[int, tuple[Sequence[float], Sequence[float], Sequence[float]]]],
    accuracy: tuple[Sequence[float], Sequence[float], Sequence[float]] | None,
    job: Job,
) -> None:
    """Plot curves over the hidden ratio, a colour per layer, with bootstrap intervals; and k-NN's accuracy."""
    panels = len(curves) + (accuracy is not None)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * panels + 0.6, 3.2), layout="constrained")
        grid = np.atleast_1d(figure.subplots(1, panels))
        for axes, (what, layers) in zip(grid, curves.items(), strict=False):
            colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(layers) + 1))
            for layer, (middle, low, high) in layers.items():
                axes.plot(ratios, middle, color=colours[layer], linewidth=1.1)
                axes.fill_between(ratios, low, high, color=colours[layer], alpha=0.15, linewidth=0)
            axes.set(xlabel="hidden", ylabel=what)
        norm = mpl.colors.Normalize(0, max(max(layers) for layers in curves.values()))
        bar = mpl.cm.ScalarMappable(norm, mpl.colors.ListedColormap(colours))
        ticks = mpl.ticker.MaxNLocator(integer=True)
        figure.colorbar(bar, ax=grid[len(curves) - 1], label="layer", ticks=ticks)
        if accuracy is not None:
            middle, low, high = accuracy
            grid[-1].plot(ratios, middle, color=BLUE, marker="o", markersize=3)
            grid[-1].fill_between(ratios, low, high, color=BLUE, alpha=0.18, linewidth=0)
            grid[-1].set(xlabel="hidden", ylabel="k-NN top-1 (%)", ylim=(0, None))
        figure.suptitle(title(job), fontsize=10)
        figure.savefig(sidecar_path(job, "occlusion.png"), dpi=150)


def receptive_fields(fields: Sequence[Any], sizes: Sequence[float], job: Job) -> None:
    """Plot the mean gradient at every pixel, a panel per stage."""
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(2.4 * len(fields), 2.8), layout="constrained")
        grid = np.atleast_1d(figure.subplots(1, len(fields)))
        for stage, (axes, field, size) in enumerate(zip(grid, fields, sizes, strict=True)):
            axes.imshow(np.sqrt(field / field.max()), cmap="magma", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[], title=f"stage {stage}: {size:.0f} px")
        figure.suptitle(title(job), fontsize=10)
        figure.savefig(sidecar_path(job, "receptive-field.png"), dpi=100)  # noise compresses badly


RED, GREY = "#c53030", "#a0aec0"
PEOPLE = {"marker": "o", "color": RED}
NETWORKS = {"marker": "|", "color": GREY}


def shape_bias(found: Scores, references: Mapping[str, Scores], job: Job) -> None:
    """Plot shape bias by class as Geirhos et al. do: the backbone with its interval, people, other networks."""
    lines = [*found.by_class, "all"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 1.5 + 0.27 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for name, other in references.items():
            style = PEOPLE if name == HUMANS else NETWORKS
            others = [*(other.by_class[c].value for c in found.by_class), other.bias.value]
            axes.scatter(others, lines, s=26, zorder=3 if name == HUMANS else 2, **style)  # type: ignore[arg-type]
        biases = [*found.by_class.values(), found.bias]
        values = [bias.value for bias in biases]
        reach = [[b.value - b.low for b in biases], [b.high - b.value for b in biases]]
        axes.errorbar(values, lines, xerr=reach, fmt="D", color=BLUE, markersize=5, elinewidth=1, zorder=4)
        axes.axhline(len(lines) - 1.5, color=DARK, linewidth=0.6)
        axes.set(xlim=(-0.02, 1.02), xlabel="decided by texture (0) or by shape (1)")
        axes.invert_yaxis()
        shown = _legend(references, job)
        figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), frameon=False)
        figure.suptitle(f"{title(job)}: shape bias {found.bias.value:.3f}", fontsize=10)
        figure.savefig(sidecar_path(job, "shape-bias.png"), dpi=150)


def _legend(references: Mapping[str, Scores], job: Job) -> list[mpl.lines.Line2D]:
    shown = {f"{job.backbone.name}, 95 % interval": {"marker": "D", "color": BLUE}}
    if HUMANS in references:
        shown["people"] = PEOPLE
    if references.keys() - {HUMANS}:
        shown["networks of Geirhos et al."] = NETWORKS
    return [
        mpl.lines.Line2D([], [], linestyle="", label=label, **style)  # type: ignore[arg-type]
        for label, style in shown.items()
    ]
