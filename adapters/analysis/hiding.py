"""Ways to hide a part of an image: random cells, the same for every backbone, or other things of a scene."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.analysis.similarity import FEWEST
from adapters.classification import data
from bench.backbones.build import is_plain
from bench.errors import UserError
from bench.runs.progress import ProgressFile
from bench.scenes import layout
from bench.scenes.labels import SMALLEST, crop_window, tight_box, visible_fraction
from bench.scenes.layout import Scene
from bench.scenes.render import Picture, render
from bench.scenes.things import CATEGORIES
from bench.scenes.world import read_manifest
from bench.tasks import Job


@dataclasses.dataclass(frozen=True, kw_only=True)
class Occluded:
    """A batch of occluded images.

    Args:
        images: [b, 3, h, w], as the model gets them.
        visible: [b, h, w], 1 where the image is visible and 0 where it is hidden.
        visible_patches: indices [b, m] of the patches that the model gets; None: all.
    """

    images: Tensor
    visible: Tensor
    visible_patches: Tensor | None = None


def share(visible: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the visible fraction [b, t], 0 to 1, of every token of a grid, for `visible` [b, h, w]."""
    return F.adaptive_avg_pool2d(visible[:, None], grid).flatten(1)


def visible_cells(ratio: float, images: Tensor, cells: tuple[int, int], seeds: Tensor) -> Tensor:
    """Draw the visible cells [b, rows, columns], 0 or 1: int(n (1 - ratio)) of n, as MAE, by each image's seed.

    A cell that is hidden at one ratio is hidden at every higher one.
    """
    total = cells[0] * cells[1]
    count = int(total * (1 - ratio) + 1e-9)
    noise = [torch.rand(total, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
    ranks = torch.stack(noise).argsort(1).argsort(1)
    return (ranks < count).float().view(-1, *cells).to(images.device)


def cells_of(job: Job, model: Any) -> tuple[int, int]:
    """Return the rows and columns of cells; raises UserError where the highest ratio leaves none visible."""
    protocol, side = job.protocol, job.protocol.cell
    height, width = (side, side) if side else model.patch_embed.patch_size
    rows, columns = protocol.img_size // height, protocol.img_size // width
    ratio = max(protocol.ratios)
    if int(rows * columns * (1 - ratio) + 1e-9) < 1:
        raise UserError(
            f"A mask ratio of {ratio:g} leaves no token of the {rows} x {columns} cells of an image visible. Define a "
            f"protocol with lower ratios, smaller cells than {height} pixels or larger images than "
            f"{protocol.img_size}."
        )
    return rows, columns


class Hiding:
    """Hides cells of images in the way of `OcclusionProtocol.by`."""

    def __init__(self, job: Job, model: Any) -> None:
        """Check that the backbone can be shown such images; raises UserError."""
        self.model, self.by = model, job.protocol.by
        self.token: Tensor | None = None
        if self.by == "token-drop":
            _check_droppable(model, job.backbone.arch)
        self.cells = cells_of(job, model)
        if self.by == "mask-token":
            self.token = mask_token(job, model).to(job.device)

    def __call__(self, images: Tensor, ratio: float, seeds: Tensor) -> Occluded:
        """Hide `ratio` of the cells of images [b, 3, h, w], each by its own seed [b]."""
        cells = visible_cells(ratio, images, self.cells, seeds)
        size = images.shape[2:]
        visible = F.interpolate(cells[:, None], size=size, mode="nearest")[:, 0]
        if self.by == "token-drop":
            visible_patches = cells.flatten(1).argsort(stable=True, dim=1, descending=True)
            visible_patches = visible_patches[:, : int(cells[0].sum())].sort(1).values
            return Occluded(images=images, visible=visible, visible_patches=visible_patches)
        if self.by == "mask-token":
            return Occluded(images=images, visible=visible)
        # In normalised images, 0 is the mean colour.
        return Occluded(images=images * visible[:, None], visible=visible)

    def masking(self, occluded: Occluded) -> "TokenMasking | None":
        """Return the context in which the model sees the mask token; None for other ways to hide."""
        return TokenMasking(self.model, self.token, occluded.visible) if self.token is not None else None


class TokenMasking:
    """Context in which a model's hidden patches are the mask token, before positions are added."""

    def __init__(self, model: Any, token: Tensor, visible: Tensor) -> None:
        """Use `token` [c] for patches of which more than half is hidden in `visible` [b, h, w]."""
        self.model, self.token, self.visible = model, token, visible

    def __enter__(self) -> None:
        """Register the hook."""

        def replace(_: nn.Module, __: Any, patches: Tensor) -> Tensor:
            height, width = self.model.patch_embed.patch_size
            grid = (self.visible.shape[1] // height, self.visible.shape[2] // width)
            hidden = (share(self.visible, grid) < 0.5).view(*patches.shape[:-1], 1)
            return patches.where(~hidden, self.token)

        self.handle = self.model.patch_embed.register_forward_hook(replace)

    def __exit__(self, *_: Any) -> None:
        """Remove the hook."""
        self.handle.remove()


def _check_droppable(model: Any, arch: str) -> None:
    """Raise UserError unless positions are added before the first block, and nowhere else."""
    from timm.models.vision_transformer import VisionTransformer

    positions = getattr(model, "pos_embed", None) is not None
    if not (isinstance(model, VisionTransformer) and is_plain(model) and positions):
        raise UserError(
            f"Patches of {arch} cannot be dropped: token dropping needs a plain ViT that adds its position embedding "
            f"before the first block, without relative or rotary positions or windows in its attention. Use "
            f"--protocol frozen, which fills with the mean colour."
        )


def mask_token(job: Job, model: Any) -> Tensor:
    """Return the mask token [c] of the job's weights; raises UserError where none fits the encoder."""
    from bench.backbones import checkpoints

    backbone = job.backbone
    state: Mapping[str, Tensor] = {}
    if backbone.weights is not None:
        state, *_ = checkpoints.read(backbone.weights, backbone.part)
    width = model.patch_embed.proj.weight.shape[0] if hasattr(model, "patch_embed") else 0
    found = {k: v for k, v in state.items() if k.endswith("mask_token")}
    fitting = [v for v in found.values() if v.shape[-1] == width and v.numel() == width]
    if not fitting:
        shapes = {k: tuple(v.shape) for k, v in found.items()}
        why = f"only {shapes}, which is a decoder's" if found else "no mask token"
        raise UserError(
            f"{backbone.name} holds {why}. Weights of SimMIM, BEiT, iBOT and DINOv2 contain the encoder's mask token; "
            f"MAE's encoder has none. Use --protocol frozen-token-drop or frozen (mean colour)."
        )
    return fitting[0].flatten().float()


# Things of the embedded world that others hide, and the same things uncovered.
#
# A world is a function of its recipe, so a scene can be rendered again without what covers a thing: with the same
# camera, light and pose, and a known visible fraction. Both images are cropped to the thing's full extent. Shadows of
# the removed things disappear, too.

SPLIT = "val"
AT_ONCE = 8  # scenes rendered together
LEAST = 16  # pixels: the shorter side of the smallest thing that is used


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Crops [s, s, 3] of a thing, occluded and whole; its visible pixels [s, s]; and its visible fraction."""

    occluded: NDArray[np.uint8]
    whole: NDArray[np.uint8]
    visible: NDArray[np.bool_]
    fraction: float


def batches(job: Job) -> Iterator[tuple[float, Tensor, Occluded]]:
    """Yield minibatches of equally hidden pairs: the ratio, whole images [b, 3, h, w], and occluded ones.

    Pairs go to the protocol's nearest ratio; ratio 0 pairs whole images with themselves. Batches of fewer than four
    images are omitted.
    """
    protocol = job.protocol
    transform = data.eval_transform(job.backbone, img_size=protocol.img_size, crop_pct=protocol.crop_pct)
    waiting: dict[float, list[Pair]] = {ratio: [] for ratio in protocol.ratios}
    above = [ratio for ratio in protocol.ratios if ratio > 0]
    for pair in _pairs(job):
        ratio = min(above, key=lambda each: abs(each - (1 - pair.fraction)))
        waiting[ratio].append(pair)
        if len(waiting[ratio]) == protocol.batch_size:
            yield from _batch(waiting[ratio], ratio, transform, job)
            waiting[ratio] = []
    for ratio, left in waiting.items():
        if len(left) >= FEWEST:
            yield from _batch(left, ratio, transform, job)


def _batch(pairs: Sequence[Pair], ratio: float, transform: Any, job: Job) -> Iterator[tuple[float, Tensor, Occluded]]:
    one, two = (
        torch.stack([transform(Image.fromarray(getattr(pair, side))) for pair in pairs])
        for side in ("whole", "occluded")
    )
    size = one.shape[2:]
    masks = [torch.from_numpy(pair.visible)[None, None].float() for pair in pairs]
    visible = torch.cat([F.interpolate(mask, size=size, mode="nearest") for mask in masks])[:, 0]
    one, two, visible = (each.to(job.device) for each in (one, two, visible))
    if 0.0 in job.protocol.ratios:
        yield 0.0, one, Occluded(images=one, visible=visible)
    yield ratio, one, Occluded(images=two, visible=visible)


def _pairs(job: Job) -> Iterator[Pair]:
    recipe = read_manifest(job.data)["recipe"]
    total = min(recipe[SPLIT], job.protocol.limit or recipe[SPLIT])
    progress = ProgressFile(job.work_dir, "scenes", total=total)
    for start in range(0, total, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, total))
        scenes = [layout.scene(recipe["seed"], SPLIT, k) for k in numbers]
        yield from pairs(scenes, recipe["size"], job.device)
        progress.update(numbers.stop)


def pairs(scenes: Sequence[Scene], size: int, device: str = "cpu") -> list[Pair]:
    """Return a pair for every thing of `scenes` that others partly hide, in images of `size` pixels."""
    found = []
    for scene, picture in zip(scenes, render(scenes, size, device), strict=True):
        hidden = (k for k in range(len(scene.things)) if _is_hidden(scene, picture, k))
        found += [_pair(picture, _uncovered(scene, picture, k, device), k) for k in hidden]
    return found


def _is_hidden(scene: Scene, picture: Picture, index: int) -> bool:
    """Return whether a thing is large enough, and others hide a part of it, but not all."""
    visible, alone = picture.thing == index, picture.alone[index]
    _, _, width, height = tight_box(alone)
    large = min(width, height) >= LEAST and int(visible.sum()) >= SMALLEST
    known = scene.things[index].category in CATEGORIES
    return known and large and bool(np.isin(picture.thing[alone], (-1, index), invert=True).any())


def _uncovered(scene: Scene, picture: Picture, index: int, device: str) -> Picture:
    """Render the scene without what covers a thing, repeatedly, since what that uncovers may cover it, too."""
    here, things = picture.alone[index], list(range(len(scene.things)))
    while covering := set(picture.thing[here].tolist()) - {-1, things.index(index)}:
        things = [thing for place, thing in enumerate(things) if place not in covering]
        left = replace(scene, things=tuple(scene.things[k] for k in things), subject=0)
        (picture,) = render([left], len(here), device)
    return picture


def _pair(picture: Picture, whole: Picture, index: int) -> Pair:
    box = tight_box(picture.alone[index])
    x, y, side = crop_window(box, picture.depth.shape[0])
    window = (slice(y, y + side), slice(x, x + side))
    return Pair(
        occluded=picture.rgb[window],
        whole=whole.rgb[window],
        visible=(picture.thing == index)[window],
        fraction=visible_fraction(picture, index),
    )
