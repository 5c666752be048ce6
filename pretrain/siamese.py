"""The siamese network: encode two views of a batch and compare them.

The encoder is the timm model being pretrained; everything else is discarded afterwards.
"""

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bench.errors import UserError
from pretrain import encoder as encoders
from pretrain.decoder import Decoder, Embedding, Perceptron, PixelHead
from pretrain.methods import Method
from pretrain.similarity import PixelTarget, Relaxed, num_processes, similarity
from pretrain.views import VIEWS, Labels, Masking, Pair, Pixels, View, patchify, take, unpatchify

if TYPE_CHECKING:
    from pretrain.data import Batch

GREY = 0.5  # colour of hidden patches in a picture


def build(
    method: Method, arch: str, *, img_size: int | tuple[int, int], num_classes: int = 0, seed: int, **timm_options: Any
) -> "Siamese":
    """Build a method's network for an architecture, initialised by `seed`; torch's generator does not change.

    `num_classes` is for methods that learn from labels; `timm_options` go to timm (`drop_path_rate`).
    Raises UserError if method, architecture and image size do not fit together.
    """
    if method.similarity == "cross-entropy" and num_classes < 2:
        raise UserError(
            f"The method {method.name} learns from labels, and the data has {num_classes} classes. Give images in "
            f"a folder for each class, or a method that needs no labels."
        )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # GPUs are not touched
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        return Siamese(method, encoders.build(method, arch, size, **timm_options), size, num_classes)


class Siamese(nn.Module):  # type: ignore[misc]  # torch is not followed
    """The encoder with its method.

    Attributes:
        encoder: the timm model, which is exported together with `mask_token`.
        mask_token: replaces hidden patches, [1, 1, D]; None if the method leaves them out.
        crops: the number of crops of each image that the views need.
        needs_labels, needs_occluders: whether the method reads those of a batch.
    """

    def __init__(self, method: Method, encoder: Any, img_size: tuple[int, int], num_classes: int) -> None:
        """Add the method's modules to an encoder that `build` made for it."""
        super().__init__()
        self.method = method
        self.crops = 2 if method.views == "two-crops" else 1
        self.needs_labels = method.views == "image-label"
        self.needs_occluders = method.masks and method.masking == "occluders"
        self.encoder = encoder
        self.masking = _masking(method, encoder) if method.masks else None
        self.mask_token = _mask_token(encoder) if method.views == "masked-pixels" else None
        self.embedding = _embedding(method, encoder, img_size, num_classes)
        grid = self.masking.grid if self.masking else (1, 1)
        self.similarity = similarity(method, math.prod(grid))
        self.pixels = PixelTarget(method, _patch_size(encoder)) if method.masks else None
        self.target: nn.ModuleDict | None = None
        if method.target == "ema":
            branch = nn.ModuleDict({"encoder": encoder, "embedding": self.embedding})
            self.target = copy.deepcopy(branch).requires_grad_(False)

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        """Return scalar losses by name, whose sum is minimised. Masks are drawn from the device's generator."""
        first, second = self._views(batch)
        if isinstance(second, Labels):
            one = self.embedding(self._features(first), first, None)
            return self.similarity(one, second.labels, None, None)
        if isinstance(second, Pixels):
            one = self.embedding(self._features(first), first, first.hidden)
            return self.similarity(one, self._target_pixels(second.images, first.hidden), first.hidden, None)
        self._check_batch(len(batch.images) * num_processes())
        return self._compare_encodings(first, second)

    @property
    def _is_constant(self) -> bool:
        """Return whether the second view's side gets no gradient; R-MAE's always gets that of its reconstruction."""
        stopped = self.target is not None or self.method.stop_gradient
        return stopped and not isinstance(self.similarity, Relaxed)

    def _check_batch(self, number: int) -> None:
        """Raise UserError for a batch of one image if images are contrasted or normalised over the batch."""
        name, level = self.method.similarity, self.method.level
        if number < 2 and (name == "infonce" or level == "pooled"):
            raise UserError(
                f"The similarity {name} of {level} views compares an image with the others of its batch, and the batch "
                f"has one image. Give a batch size of at least 2 (MoCo v3 has 4096), or the similarity relaxed-l2."
            )

    def _compare_encodings(self, first: View, second: View) -> dict[str, Tensor]:
        """Encode both views by the encoder and by the target, and compare them."""
        one = self._features(first)
        learns_from_second = not self._is_constant or self.method.symmetric
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns_from_second):
            needed = self.target is None or self.method.symmetric
            two = self._features(second) if needed else None
        losses = self._compare(one, first, self._target_features(two, second), second)
        if self.method.symmetric:
            assert two is not None
            other = self._compare(two, second, self._target_features(one, first), first)
            losses = {name: (losses[name] + other[name]) / 2 for name in losses}
        return losses

    def _compare(self, one: Tensor, first: View, two: Tensor, second: View) -> dict[str, Tensor]:
        """Compare the embedding of the first view with the target's embedding of the second."""
        at = second.shown if self.method.level == "tokens" else None
        # The query first: autocast caches casted weights, and casts made without gradient would block the query's.
        query = self.embedding(one, first, at)
        embedding = self.embedding if self.target is None else self.target["embedding"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._is_constant):
            key = embedding(two, second, None)
        pixels = self._target_pixels(first.images, at) if isinstance(self.similarity, Relaxed) else None
        return self.similarity(query, key, at, pixels)

    def _features(self, view: View, encoder: Any = None) -> Tensor:
        """Return a view's features: the encoder's last ones, or [N, 1, D] if they are pooled."""
        encoder = self.encoder if encoder is None else encoder
        features = encoders.encode(encoder, view, self.mask_token)
        if self.method.level == "pooled":
            return encoder.forward_head(features, pre_logits=True)[:, None]
        return encoders.final_norm(encoder)(features)

    def _target_features(self, shared: Tensor | None, view: View) -> Tensor:
        """Return a view's features for the target: the encoder's (`shared`), or those of its moving average."""
        if self.target is None:
            assert shared is not None
            return shared
        with torch.no_grad():
            return self._features(view, self.target["encoder"])

    def _views(self, batch: "Batch") -> Pair:
        """Return the method's pair of views, with new masks."""

        def draw() -> tuple[Tensor, Tensor]:
            assert self.masking is not None
            return self.masking(len(batch.images), batch.images.device, batch.occluders)

        return VIEWS[self.method.views](batch, self.method, draw)

    def _target_pixels(self, images: Tensor, at: Tensor | None) -> Tensor:
        """Return the pixels to predict at the positions [N, M]."""
        assert self.pixels is not None
        assert at is not None
        return self.pixels(images, at)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def after_step(self, progress: float) -> None:
        """Move the target towards the encoder, at `progress` 0-1 of the training.

        The momentum is 1 - (1 - momentum) (1 + cos(pi progress)) / 2 (MoCo v3, arXiv 2104.02057).
        """
        if self.target is None:
            return
        momentum = 1 - (1 - self.method.momentum) * (1 + math.cos(math.pi * progress)) / 2
        online = nn.ModuleDict({"encoder": self.encoder, "embedding": self.embedding})
        mine = list(self.target.parameters())
        torch._foreach_lerp_(mine, [p.detach() for p in online.parameters()], 1 - momentum)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def picture(
        self,
        batch: "Batch",
        *,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> Tensor | None:
        """Return masked input, reconstruction and target, [N, 3, 3, H, W] in 0-1; None if no pixels are predicted.

        `mean` and `std` are those that normalised the batch. A reconstruction of normalised pixels is shown with each
        patch's true mean and deviation, as in MAE's pictures.
        """
        if not self.method.masks or self.method.similarity in ("infonce", "cosine"):
            return None
        first, _ = self._views(batch)
        assert first.hidden is not None
        size, grid = _patch_size(self.encoder), self.masking.grid if self.masking else (1, 1)
        predicted = self.embedding(self._features(first), first, first.hidden).float()
        patches = patchify(batch.images, size)
        if self.method.norm_pix_loss:
            variance, centre = torch.var_mean(take(patches, first.hidden), dim=-1, keepdim=True)
            predicted = predicted * (variance + 1e-6).sqrt() + centre
        colour = [torch.tensor(c, device=predicted.device).view(1, 3, 1, 1) for c in (mean, std)]
        grey = patchify(((GREY - colour[0]) / colour[1]).expand_as(batch.images), size)
        places = first.hidden[:, :, None].expand_as(predicted)
        masked = patches.scatter(1, places, take(grey, first.hidden))
        images = [unpatchify(p, size, grid) for p in (masked, patches.scatter(1, places, predicted))]
        shown = [image * colour[1] + colour[0] for image in [*images, batch.images]]
        return torch.stack(shown, 1).clamp(0, 1)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, besides biases and norms."""
        own = {f"encoder.{name}" for name in getattr(self.encoder, "no_weight_decay", set)()}
        names = {name for name, _ in self.named_parameters()}
        return names & own | {name for name in names if name.endswith("mask_token")}


def _patch_size(encoder: Any) -> tuple[int, int]:
    height, width = encoder.patch_embed.patch_size
    return height, width


def _masking(method: Method, encoder: Any) -> Masking:
    """Return masks on the encoder's grid of patches; raises UserError if the unit does not divide."""
    patch = max(_patch_size(encoder))
    if method.mask_unit % patch:
        raise UserError(
            f"A mask unit of {method.mask_unit} pixels is not a multiple of the patch of {patch}. Give a multiple, "
            f"such as {2 * patch}, or 0 for single patches."
        )
    grid, unit = tuple(encoder.patch_embed.grid_size), max(method.mask_unit // patch, 1)
    return Masking(kind=method.masking, ratio=method.mask_ratio, grid=grid, unit=unit)


def _mask_token(encoder: Any) -> nn.Parameter:
    width = encoder.patch_embed.proj.out_channels
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))


def _embedding(method: Method, encoder: Any, img_size: tuple[int, int], num_classes: int) -> nn.Module:
    """Return the module that maps features to what the method compares: pixels, projections or logits."""
    if method.similarity == "pixel-l1":
        return PixelHead(encoder, _patch_size(encoder), img_size)
    if method.similarity == "cross-entropy":
        head = nn.Linear(encoder.num_features, num_classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return Embedding(None, head)
    decoder = _decoder(method, encoder) if method.level == "tokens" else None
    width = method.decoder_dim if decoder else encoder.num_features
    if method.similarity in ("pixel-l2", "relaxed-l2"):
        pixels = nn.Linear(width, 3 * math.prod(_patch_size(encoder)))
        encoders.initialise_linear(pixels)
        return Embedding(decoder, pixels)
    hidden = method.projector_dim or 4 * width
    return Embedding(decoder, Perceptron((width, hidden, hidden, method.projection_dim), last_norm=True))


def _decoder(method: Method, encoder: Any) -> Decoder:
    if not isinstance(encoder, VisionTransformer):
        raise UserError(
            f"The decoder needs the tokens of a plain ViT, and {type(encoder).__name__} is not one. Choose a ViT such "
            f"as vit_base_patch16_224, or the method simmim, whose head is linear."
        )
    size = (method.decoder_dim, method.decoder_depth, method.decoder_heads)
    decoder = Decoder(encoder.embed_dim, encoder.patch_embed.grid_size, encoder.num_prefix_tokens, *size)
    decoder.mask_token.requires_grad_(method.views != "masked-pixels")  # with those, the encoder's token is used
    return decoder
