"""Pretrain a backbone: a method, an architecture, a recipe and images -> a weights file.

    python -m pretrain.run --method mae --arch vit_tiny_patch16_224 --recipe scenes --data scenes --out OUT

leaves OUT/backbone.safetensors for `python -m bench.run --backbone`, with curves for TensorBoard and
pictures beside it. The same command goes on with a run that was killed. Several GPUs: torchrun -m
pretrain.run ..., or --cluster slurm --slurm gpus_per_node=8 nodes=2.
"""

import argparse
import dataclasses
import functools
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.backbones.architectures import architectures
from bench.errors import UserError, unknown
from bench.slurm.request import Resources, resources
from pretrain import recipes
from pretrain.job import Request, pretrain
from pretrain.methods import METHODS, Method, method

DONE, WRONG, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, export; return the exit status (0 done, 2 wrong request or stopped training)."""
    arguments = _parser().parse_args(argv)
    try:
        request = _request(arguments)
        asked = requested(arguments.cluster, arguments.slurm)
        if arguments.dry_run:
            sys.stdout.write(_described(request) + (f"slurm    {asked}\n" if asked else ""))
        elif asked:
            sys.stdout.write(submit(request, asked))
        else:
            pretrain(request)
        return DONE
    except UserError as error:
        sys.stderr.write(f"pretrain.run: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. The same command goes on from the last checkpoint.\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pretrain.run",
        description="Pretrain a backbone and export it for python -m bench.run.",
        epilog="Exit status: 0 the backbone is there, 2 wrong request or training that had to stop.",
    )
    add = parser.add_argument
    add("--method", required=True, metavar="M", help=", ".join(m.name for m in METHODS))
    add("--arch", required=True, metavar="ARCH", help="a timm architecture")
    add("--recipe", required=True, metavar="RECIPE", help=", ".join(recipes.RECIPES))
    add("--data", required=True, metavar="NAME|DIR", help="scenes, species, or a folder")
    add("--out", required=True, type=Path, metavar="DIR", help="one folder a run")
    add("--images", type=int, metavar="N", help="few images, repeated to the same number of steps")
    add("--subset-seed", type=int, default=0, metavar="S", help="which few (default 0)")
    add("--seed", type=int, default=0, metavar="K", help="of weights, order, masks (default 0)")
    add("--epochs", type=int, metavar="E", help="stretches the recipe's schedule")
    add("--batch-size", type=int, metavar="B", help="images an update; the rate is in proportion")
    add("--precision", choices=("fp32", "bf16"), help="of the forward pass (default: the recipe's)")
    add("--augmentation", metavar="A", help="mae, simmim, moco, ... (default: the recipe's or method's)")
    add("--accumulate", type=int, default=1, metavar="A", help="parts of a batch (default 1)")
    add("--compile", action="store_true", help="torch.compile (a minute, once)")
    add("--wandb", action="store_true", help="also write to Weights & Biases")
    add("--workers", type=int, metavar="N", help="processes that decode (default: half the cores)")
    add("--checkpoint-seconds", type=float, default=120.0, metavar="T", help="default 120")
    add("--snapshot-epochs", type=int, metavar="E", help="export every E epochs, for bench.run --watch")
    add("--data-root", type=Path, metavar="DIR", help="default $BENCH_DATA")
    add("--cluster", default="inline", help=f"{', '.join(CLUSTERS)} (default inline)")
    add("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="as bench.run takes it")
    add("--dry-run", action="store_true", help="say what would be done")
    _add_method_fields(parser)
    return parser


def _add_method_fields(parser: argparse.ArgumentParser) -> None:
    """An option for each of a method's fields, so that an ablation is a loop over this command."""
    group = parser.add_argument_group("a method's own fields, changed (see pretrain/methods.py)")
    for field in _method_fields():
        option = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction)
        else:
            kind = field.type if field.type in (int, float) else str
            group.add_argument(option, type=kind, metavar=field.name.upper())


def _method_fields() -> list[dataclasses.Field[Any]]:
    prose = ("name", "source", "expected")
    return [field for field in dataclasses.fields(Method) if field.name not in prose]


def _request(arguments: argparse.Namespace) -> Request:
    """Check what argparse cannot; raises UserError."""
    if arguments.arch not in (known := architectures()):
        raise unknown("backbone", arguments.arch, known)
    for option in ("accumulate", "seed", "subset_seed", "workers", "snapshot_epochs"):
        least = 1 if option in ("accumulate", "snapshot_epochs") else 0
        given = getattr(arguments, option)
        if given is not None and given < least:
            raise UserError(f"--{option.replace('_', '-')} {given}: the least is {least}.")
    if arguments.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "--wandb needs the package wandb, which is not installed: python -m pip install wandb. Curves for "
            "TensorBoard are written without it."
        )
    data_root = arguments.data_root or os.environ.get("BENCH_DATA")
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return Request(
        method=method(arguments.method, **{f.name: getattr(arguments, f.name) for f in _method_fields()}),
        arch=arguments.arch,
        recipe=recipes.recipe(
            arguments.recipe,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            precision=arguments.precision,
            augmentation=arguments.augmentation,
        ),
        data=arguments.data,
        images=arguments.images,
        subset_seed=arguments.subset_seed,
        seed=arguments.seed,
        accumulate=arguments.accumulate,
        out=arguments.out,
        data_root=Path(data_root) if data_root else None,
        compiled=arguments.compile,
        wandb=arguments.wandb,
        workers=max(1, cores // 2) if arguments.workers is None else arguments.workers,
        checkpoint_seconds=arguments.checkpoint_seconds,
        snapshot_epochs=arguments.snapshot_epochs,
    )


def _described(request: Request) -> str:
    recipe = request.recipe
    chosen = request.method
    lines = [
        f"method   {chosen.name}: {chosen.views} x {chosen.similarity}. {chosen.source}",
        f"arch     {request.arch}, {recipe.img_size} pixels",
        f"recipe   {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, rate {recipe.peak_lr:.3g}, "
        f"{recipe.precision}. {recipe.source}",
        f"cost     {recipe.cost}",
        f"expected {recipe.expected}",
        f"data     {request.data}" + (f", {request.images} images" if request.images else ""),
        f"out      {request.out}",
    ]
    return "\n".join(lines) + "\n"


# A pretraining as a Slurm job: submitted, seen and called off as runs of `bench.run` are.

CLUSTERS = ("inline", "slurm")


def requested(cluster: str, words: Sequence[str]) -> Resources | None:
    """What the job asks of Slurm; None where training stays in this process. Raises UserError."""
    if cluster not in CLUSTERS:
        raise unknown("cluster", cluster, CLUSTERS)
    if cluster == "slurm":
        return resources(words)
    if words:
        raise UserError("--slurm is of --cluster slurm. Give that too, or leave it out.")
    return None


def submit(request: Request, asked: Resources) -> str:
    """Submit, unless it is there, queued or at work; returns what a user should read. Raises UserError.

    A job that was preempted, or whose time was up, goes on from its folder's last checkpoint.
    """
    from bench.records import Store
    from bench.runs.state import Watch
    from bench.slurm import submit as runs
    from bench.slurm.jobs import Call
    from pretrain.export import NAME

    request = dataclasses.replace(
        request,
        out=request.out.resolve(),
        data=_place(request.data),
        data_root=request.data_root and request.data_root.resolve(),
    )
    target = request.out / NAME
    if target.is_file():
        return f"{target} is there already.\n"
    title = f"pretraining {request.method.name} {request.arch} {request.recipe.name} {request.out.name}"
    call = Call(key=str(target), title=title, function=functools.partial(pretrain, request))
    request.out.mkdir(parents=True, exist_ok=True)
    read = [path for path in (request.data_root, Path(request.data)) if path and path.is_absolute()]
    watch = Watch(store=Store(request.out), work_dir=request.out, only=[call.key])
    jobs, _ = runs.submit_missing({call.key: call}, watch, asked, lambda fresh: read)
    said = f"Submitted as Slurm job {jobs[0]}." if jobs else "Queued or at work already."
    return f"{said} python -m bench.status --work-dir {request.out} shows it, bench.cancel calls it off.\n"


def _place(data: str) -> str:
    """A folder by its whole path; a name as it is."""
    return str(Path(data).resolve()) if Path(data).is_dir() else data


if __name__ == "__main__":
    sys.exit(main())
