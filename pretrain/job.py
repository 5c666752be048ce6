"""One pretraining run from its request to its weights file."""

import contextlib
import dataclasses
import fcntl
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.environment import git
from bench.errors import UserError
from bench.files import write_atomic
from bench.processes import worker_ends_with_run
from pretrain.methods import Method
from pretrain.recipes import Recipe

if TYPE_CHECKING:
    from pretrain import data
    from pretrain.augment import Augmentation
    from pretrain.siamese import Siamese
    from pretrain.sources import ImageSource
    from pretrain.training import BatchStream, Schedule

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as all the papers have it
AUGMENTATION_OF = {
    "visible-pixels": "mae",
    "masked-pixels": "simmim",
    "mask-complement": "mae",
    "two-crops": "moco",
    "image-label": "supervised",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A pretraining run: all that its weights follow from, and how it is carried out."""

    method: Method
    arch: str
    recipe: Recipe
    data: str
    images: int | None
    subset_seed: int
    seed: int
    accumulate: int
    out: Path
    data_root: Path | None
    compiled: bool
    wandb: bool
    workers: int
    checkpoint_seconds: float
    snapshot_epochs: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What the weights follow from, as JSON values; where the images lie is no part of it."""
        told = dataclasses.asdict(self.method)
        return {
            "method": {key: told[key] for key in told if key not in ("source", "expected")},
            "arch": self.arch,
            "recipe": self.recipe.settings(),
            "data": Path(self.data).name,
            "images": self.images,
            "subset_seed": self.subset_seed if self.images is not None else None,
            "seed": self.seed,
            "accumulate": self.accumulate,
        }


def pretrain(request: Request) -> None:
    """Train and export; goes on where a killed process was. Raises UserError."""
    from pretrain import training
    from pretrain.export import NAME, export

    device = training.place()
    rank, world_size = training.ranks()
    images = _images(request)
    siamese = _siamese(request, images)
    schedule = _schedule(request, images, world_size)
    chosen = _augmentation(request, world_size)
    target = request.out / NAME
    held: Any = contextlib.nullcontext()
    if rank == 0:  # the request is known to be right: from here on the folder is this run's
        held = claim(request.out, request.identity)
    with held:
        if target.is_file():
            return _say(rank, f"{target} is there already.")
        encoder = training.train(
            siamese,
            _batches(request, images, siamese, schedule, chosen, device),
            schedule,
            seed=request.seed,
            out=request.out,
            device=device,
            hooks=_hooks(request, images),
            compiled=request.compiled,
            wandb=request.wandb,
        )
        if rank == 0:
            export(encoder, target, _header(request, images), siamese.mask_token)
    skipped = f"; {len(images.skipped)} images were skipped" if images.skipped else ""
    _say(rank, f"{target} is there{skipped}. Try: python -m bench.run --backbone {target} --task all")


def _say(rank: int, text: str) -> None:
    if rank == 0:
        sys.stdout.write(f"{text}\n")


def _images(request: Request) -> "ImageSource":
    from pretrain.sources import source

    return source(request.data, images=request.images, subset_seed=request.subset_seed, data_root=request.data_root)


def _siamese(request: Request, images: "ImageSource") -> "Siamese":
    from pretrain.siamese import build

    supervised = request.method.views == "image-label"
    if supervised and images.labels is None:
        raise UserError(
            f"The views {request.method.views} need labels, and {images.name} has none. Give a folder with one folder "
            f"a class, or --data species."
        )
    drop_path = {"drop_path_rate": request.recipe.drop_path} if request.recipe.drop_path else {}
    return build(
        request.method,
        request.arch,
        img_size=request.recipe.img_size,
        num_classes=len(images.classes) if supervised else 0,
        seed=request.seed,
        **drop_path,
    )


def _schedule(request: Request, images: "ImageSource", world_size: int) -> "Schedule":
    from pretrain.training import Schedule

    batch, parts = request.recipe.batch_size, request.accumulate * world_size
    if batch % parts:
        raise UserError(
            f"A batch of {batch} cannot be shared equally among {world_size} processes with {request.accumulate} parts "
            f"each. Give --batch-size a multiple of {parts}, or another --accumulate."
        )
    return Schedule(
        recipe=request.recipe, updates_per_epoch=max(1, images.images_per_epoch // batch), accumulate=request.accumulate
    )


def _augmentation(request: Request, world_size: int) -> "Augmentation":
    """The recipe's, or the views' own; one that mixes needs labels, and images in pairs."""
    from pretrain.augment import augmentation

    views, recipe = request.method.views, request.recipe
    chosen = augmentation(recipe.augmentation or AUGMENTATION_OF[views])
    if chosen.mixes and views != "image-label":
        raise UserError(
            f"The augmentation {chosen.name} mixes images and their labels, and the views {views} of "
            f"{request.method.name} have no labels. Give the method supervised, or another --augmentation or recipe, "
            f"such as mae-1600."
        )
    pairs = 2 * request.accumulate * world_size
    if chosen.mixes and recipe.batch_size % pairs:
        raise UserError(
            f"The augmentation {chosen.name} mixes images in pairs, and a batch of {recipe.batch_size} in "
            f"{request.accumulate} parts on {world_size} processes leaves one over. Give --batch-size a multiple of "
            f"{pairs}."
        )
    return chosen


def _batches(
    request: Request,
    images: "ImageSource",
    siamese: "Siamese",
    schedule: "Schedule",
    chosen: "Augmentation",
    device: Any,
) -> "BatchStream":
    from pretrain import data
    from pretrain.augment import Augment
    from pretrain.training import BatchStream

    augment = Augment(chosen, mean=MEAN, std=STD, num_classes=len(images.classes)).to(device)
    batches = _crops(request, images, siamese, chosen)

    def starting_at(iteration: int) -> Any:
        loader = data.loader(
            batches,
            start_iteration=iteration,
            iterations=schedule.iterations,
            num_workers=request.workers,
            pin_memory=device.type == "cuda",
        )
        loader.worker_init_fn = worker_ends_with_run if request.workers else None
        return loader

    return BatchStream(
        dataset=images,
        starting_at=starting_at,
        augment=lambda raw, position: augment(raw.to(device, non_blocking=True), position),
    )


def _crops(request: Request, images: "ImageSource", siamese: "Siamese", chosen: "Augmentation") -> "data.CropBatches":
    """This process's share of what the method sees, before its augmentation."""
    from pretrain import data
    from pretrain.training import ranks

    rank, world_size = ranks()
    patches = getattr(siamese.encoder, "patch_embed", None)
    return data.CropBatches(
        images,
        batch_size=request.recipe.batch_size // request.accumulate,
        img_size=request.recipe.img_size,
        seed=request.seed,
        crops=siamese.crops,
        scale=chosen.scale,
        occluders=siamese.needs_occluders,
        smallest=max(getattr(patches, "patch_size", (1,))),
        rank=rank,
        world_size=world_size,
    )


def _hooks(request: Request, images: "ImageSource") -> list[Any]:
    from pretrain.hooks import FiniteTrainingHook, NumberedCheckpoints, Pictures, PretrainingProgress, Snapshots

    every = request.snapshot_epochs
    title = f"{request.method.name} {request.arch}"
    return [
        FiniteTrainingHook(),
        PretrainingProgress(title, images=request.recipe.batch_size // request.accumulate),
        Pictures(),
        *([Snapshots(every, _header(request, images))] if every else []),
        NumberedCheckpoints(request.checkpoint_seconds),
    ]


def _header(request: Request, images: "ImageSource") -> dict[str, str]:
    """What the weights file says of itself: strings, JSON where they are no plain text."""
    size = request.recipe.img_size
    return {
        "name": request.out.resolve().name,
        "arch": request.arch,
        "method": request.method.name,
        "recipe": request.recipe.name,
        "data": images.name,
        "data_fingerprint": images.fingerprint,
        "epochs": str(request.recipe.epochs),
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "img_size": json.dumps([size, size]),
        "commit": _commit(),
        "pretraining": json.dumps(request.identity),
    }


def _commit() -> str:
    """What the weights were made with; marked where the files were not the commit's."""
    found = git()
    return f"{found['commit'] or 'unknown'}{'+changes' if found['dirty'] else ''}"


# An output folder belongs to one run: to what its `run.json` says, and to one process at a time.

NAME, LOCK = "run.json", ".lock"
WORK = ("checkpoint-*.pth", "*.safetensors")


def claim(out: Path, identity: Mapping[str, Any]) -> IO[str]:
    """Take the folder for a run, new or gone on with; it is held until the returned file is closed.

    `identity` is all that the weights follow from, as JSON values. Raises UserError when the folder holds
    another run's checkpoints or backbone, or another process works in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("w")
    except OSError as error:
        raise UserError(f"The output folder {out} cannot be written ({error.strerror}). Give another --out.") from None
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(
            f"Another process trains in {out} at this moment. Wait for it, end it, or give another --out."
        ) from None
    there = out / NAME
    work = [path for pattern in WORK for path in out.glob(pattern)]
    before = json.loads(there.read_text("utf-8")) if there.is_file() else {}
    differences = list(_differences(before, identity))
    if not work:
        write_atomic(there, json.dumps(identity, indent=1) + "\n")
    elif differences:
        raise UserError(
            f"{out} holds another run: {'; '.join(differences)}. Give the settings of that run to go on with it, or "
            f"another --out for this one."
        )
    return lock


def _differences(there: Any, now: Any, name: str = "") -> Iterator[str]:
    """What of two nested values is not the same, said by its place."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*there, *now]):
            yield from _differences(there.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif there != now:
        yield f"{name} is {json.dumps(there)} there and {json.dumps(now)} here"
