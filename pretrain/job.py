"""One pretraining run, from its request to its weights file; the steps import torch, `Request` does not."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.environment import git
from bench.errors import UserError
from bench.files import locked, write_atomic
from bench.processes import worker_ends_with_run
from pretrain.methods import Method
from pretrain.recipes import Recipe

if TYPE_CHECKING:
    from pretrain import data
    from pretrain.augment import Augmentation
    from pretrain.siamese import Siamese
    from pretrain.sources import ImageSource
    from pretrain.training import BatchStream, Schedule

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in all the papers
NAME, LOCK, BACKBONE = "run.json", ".lock", "backbone.safetensors"  # in an output folder
RESULTS = ("checkpoint-*.pth", "*.safetensors")  # files that make it belong to its run
AUGMENTATION_OF = {
    "visible-pixels": "mae",
    "masked-pixels": "simmim",
    "mask-complement": "mae",
    "two-crops": "moco",
    "image-label": "supervised",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A pretraining run: what determines its weights (`identity`), and how it is executed."""

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
        """Return what determines the weights, as JSON values; the path of the images is not part of it."""
        fields = dataclasses.asdict(self.method)
        return {
            "method": {key: fields[key] for key in fields if key not in ("source", "expected")},
            "arch": self.arch,
            "recipe": self.recipe.settings(),
            "data": Path(self.data).name,
            "images": self.images,
            "subset_seed": self.subset_seed if self.images is not None else None,
            "seed": self.seed,
            "accumulate": self.accumulate,
        }


def pretrain(request: Request) -> None:
    """Train and export, resuming from the output folder's last checkpoint. Raises UserError."""
    from mmengine.dist import get_dist_info

    from pretrain import training

    device = training.join_processes()
    rank, world_size = get_dist_info()
    images = _images(request)
    siamese = _siamese(request, images)
    schedule = _schedule(request, images, world_size)
    chosen = _augmentation(request, world_size)
    target = request.out / BACKBONE
    # Claim the folder only now, when the request is known to be valid.
    lock: Any = claim(request.out, request.identity) if rank == 0 else contextlib.nullcontext()
    with lock:
        if target.is_file():
            return _print(rank, f"{target} exists already.")
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
            training.export(encoder, target, _header(request, images), siamese.mask_token)
    skipped = f"; {len(images.skipped)} images were skipped" if images.skipped else ""
    _print(rank, f"Wrote {target}{skipped}. Try: python -m bench.run --backbone {target} --task all")


def _print(rank: int, text: str) -> None:
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
            f"The views {request.method.views} need labels, and {images.name} has none. Give --data a folder with one "
            f"folder a class, or species."
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
    """Return the recipe's augmentation, or the views' default; raises UserError if its mixing is not possible."""
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
            f"{request.accumulate} parts on {world_size} processes does not divide into pairs. Give --batch-size a "
            f"multiple of {pairs}."
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
    """Return this process's batches of crops, before augmentation."""
    from mmengine.dist import get_dist_info

    from pretrain import data

    rank, world_size = get_dist_info()
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
    """Return the weights file's header: strings, some of them JSON."""
    size, commit = request.recipe.img_size, git()
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
        "commit": f"{commit['commit'] or 'unknown'}{'+changes' if commit['dirty'] else ''}",
        "pretraining": json.dumps(request.identity),
    }


@contextlib.contextmanager
def claim(out: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Lock the output folder for a new or resumed run.

    `run.json` in the folder records its run's identity: all that determines the weights, as JSON values. Raises
    UserError when the folder contains another run's checkpoints or backbone, or another process uses it.
    """

    def refuse() -> None:
        raise UserError(f"Another process is training in {out}. Wait for it, stop it, or give another --out.")

    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(out / LOCK, on_busy=refuse))
        except OSError as error:
            raise UserError(
                f"The output folder {out} cannot be written ({error.strerror}). Give another --out."
            ) from None
        record = out / NAME
        before = json.loads(record.read_text("utf-8")) if record.is_file() else {}
        differences = list(_differences(before, identity))
        if not any(path for pattern in RESULTS for path in out.glob(pattern)):
            write_atomic(record, json.dumps(identity, indent=1) + "\n")
        elif differences:
            raise UserError(
                f"{out} contains another run: {'; '.join(differences)}. Give that run's settings to resume it, or "
                f"another --out for this one."
            )
        yield


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Name the places where two nested values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"its {name} is {json.dumps(before)}, not {json.dumps(now)}"
