"""Pretrain a backbone: a method, an architecture, a recipe and images -> a weights file.

    python -m pretrain.run --method mae --arch vit_tiny_patch16_224 --recipe scenes --data scenes --out OUT

writes OUT/backbone.safetensors for `python -m bench.run --backbone`, with TensorBoard curves and pictures next to it.
The same command resumes a run that was killed. Several GPUs: torchrun -m pretrain.run ..., or
--cluster slurm --slurm gpus_per_node=8 nodes=2.
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
from pretrain.job import BACKBONE, Request, pretrain
from pretrain.methods import METHODS, Method, method

DONE, WRONG, INTERRUPTED = 0, 2, 130
CLUSTERS = ("inline", "slurm")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0 done, 2 invalid request or failed training, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        request = _request(arguments)
        asked = slurm_resources(arguments.cluster, arguments.slurm)
        if arguments.dry_run:
            sys.stdout.write(_plan(request) + (f"slurm    {asked}\n" if asked else ""))
        elif asked:
            sys.stdout.write(submit(request, asked))
        else:
            pretrain(request)
        return DONE
    except UserError as error:
        sys.stderr.write(f"pretrain.run: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. The same command resumes from the last checkpoint.\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pretrain.run",
        description="Pretrain a backbone and export it for python -m bench.run.",
        epilog="Exit status: 0 the backbone was written or the job submitted, 2 the request is invalid or training "
        "failed, 130 interrupted.",
    )
    _add_what(parser)
    _add_changes(parser)
    _add_execution(parser)
    _add_method_fields(parser)
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Add the options that define the run."""
    add = parser.add_argument_group("run").add_argument
    add("--method", required=True, metavar="M", help=f"The pretraining method: {', '.join(m.name for m in METHODS)}.")
    add("--arch", required=True, metavar="ARCH", help="The timm architecture to pretrain.")
    add("--recipe", required=True, metavar="RECIPE", help=f"The training recipe: {', '.join(recipes.RECIPES)}.")
    add(
        "--data",
        required=True,
        metavar="NAME|DIR",
        help="The images: scenes, species, a folder, or the name of one below the data root.",
    )
    add(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="The folder of this run's backbone, checkpoints and logs; the same command resumes from it.",
    )


def _add_changes(parser: argparse.ArgumentParser) -> None:
    """Add the options that change the data and the recipe."""
    add = parser.add_argument_group("changes to the data and the recipe").add_argument
    add(
        "--images",
        type=int,
        metavar="N",
        help="Train on a random subset of N images, repeated to the same number of steps (default: all images).",
    )
    add("--subset-seed", type=int, default=0, metavar="S", help="The seed that chooses the subset (default: 0).")
    add("--seed", type=int, default=0, metavar="K", help="The seed of weights, image order and masks (default: 0).")
    add(
        "--epochs",
        type=int,
        metavar="E",
        help="The number of epochs; warm-up and milestones scale with it (default: the recipe's).",
    )
    add(
        "--batch-size",
        type=int,
        metavar="B",
        help="Images per update; the learning rate is proportional to it (default: the recipe's).",
    )
    add("--precision", choices=("fp32", "bf16"), help="The precision of the forward pass (default: the recipe's).")
    add(
        "--augmentation",
        metavar="A",
        help="The augmentation: mae, simmim, moco, supervised or deit (default: the recipe's, else the method's).",
    )
    add(
        "--accumulate",
        type=int,
        default=1,
        metavar="A",
        help="Split each batch into A parts and accumulate their gradients, to save memory (default: 1).",
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    """Add the options that affect no weights: logs, processes, files and the cluster."""
    add = parser.add_argument_group("execution").add_argument
    add("--compile", action="store_true", help="Use torch.compile, which takes a minute at the start (default: off).")
    add("--wandb", action="store_true", help="Also log to Weights & Biases (default: off).")
    add("--workers", type=int, metavar="N", help="The number of decoding processes (default: half the CPU cores).")
    add(
        "--checkpoint-seconds",
        type=float,
        default=120.0,
        metavar="T",
        help="The seconds between two checkpoints (default: 120).",
    )
    add(
        "--snapshot-epochs",
        type=int,
        metavar="E",
        help="Export the backbone every E epochs, for bench.run --watch (default: only at the end).",
    )
    add("--data-root", type=Path, metavar="DIR", help="The folder of data sets (default: $BENCH_DATA).")
    add(
        "--cluster",
        default="inline",
        metavar="C",
        help="Where to train: inline (this process) or slurm (a submitted job) (default: inline).",
    )
    add(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="Resources of the Slurm job, as for bench.run, such as gpus_per_node=8 (default: the site's).",
    )
    add("--dry-run", action="store_true", help="Print the plan and exit (default: off).")


def _add_method_fields(parser: argparse.ArgumentParser) -> None:
    """Add an option for each of a method's fields, so that an ablation is a loop over this command."""
    group = parser.add_argument_group(
        "method fields",
        "Each option changes one field of the method (default: the method's own value). pretrain/methods.py explains "
        "the fields.",
    )
    for field in _method_fields():
        option, meaning = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        if field.type is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, help=meaning)
        else:
            kind = field.type if field.type in (int, float) else str
            group.add_argument(option, type=kind, metavar=field.name.upper(), help=meaning)


def _method_fields() -> list[dataclasses.Field[Any]]:
    prose = ("name", "source", "expected")
    return [field for field in dataclasses.fields(Method) if field.name not in prose]


def _request(arguments: argparse.Namespace) -> Request:
    """Build the request from the arguments; raises UserError for values that argparse cannot check."""
    if arguments.arch not in (known := architectures()):
        raise unknown("backbone", arguments.arch, known)
    for option in ("accumulate", "seed", "subset_seed", "workers", "snapshot_epochs"):
        least = 1 if option in ("accumulate", "snapshot_epochs") else 0
        given = getattr(arguments, option)
        if given is not None and given < least:
            raise UserError(f"--{option.replace('_', '-')} {given}: give at least {least}.")
    if arguments.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "--wandb needs the package wandb, which is not installed: python -m pip install wandb. TensorBoard curves "
            "are written without it."
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


def _plan(request: Request) -> str:
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


def slurm_resources(cluster: str, words: Sequence[str]) -> Resources | None:
    """Return the Slurm job's resources; None to train in this process. Raises UserError."""
    if cluster not in CLUSTERS:
        raise unknown("cluster", cluster, CLUSTERS)
    if cluster == "slurm":
        return resources(words)
    if words:
        raise UserError("--slurm applies to --cluster slurm only. Add --cluster slurm, or leave --slurm out.")
    return None


def submit(request: Request, asked: Resources) -> str:
    """Submit a job unless the backbone exists or a job is queued or running; return the message. Raises UserError.

    A job that is preempted or runs out of time resumes from its folder's last checkpoint.
    """
    from bench.records import Store
    from bench.runs.state import Watch
    from bench.slurm import submit as runs
    from bench.slurm.jobs import Call

    request = dataclasses.replace(
        request,
        out=request.out.resolve(),
        data=str(Path(request.data).resolve()) if Path(request.data).is_dir() else request.data,
        data_root=request.data_root and request.data_root.resolve(),
    )
    target = request.out / BACKBONE
    if target.is_file():
        return f"{target} exists already.\n"
    title = f"pretraining {request.method.name} {request.arch} {request.recipe.name} {request.out.name}"
    call = Call(key=str(target), title=title, function=functools.partial(pretrain, request))
    request.out.mkdir(parents=True, exist_ok=True)
    read = [path for path in (request.data_root, Path(request.data)) if path and path.is_absolute()]
    watch = Watch(store=Store(request.out), work_dir=request.out, only=[call.key])
    jobs, _ = runs.submit_missing({call.key: call}, watch, asked, lambda fresh: read)
    state = f"Submitted as Slurm job {jobs[0]}." if jobs else "A job is queued or running already."
    return f"{state} python -m bench.status --work-dir {request.out} shows it, bench.cancel cancels it.\n"


if __name__ == "__main__":
    sys.exit(main())
