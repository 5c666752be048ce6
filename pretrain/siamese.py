"""A method at work: encode two views of a batch, compare them.

The encoder is the timm model that pretraining is for; everything else here is thrown away in the end.
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
from pretrain.masking import Masking
from pretrain.methods import Method
from pretrain.similarity import PixelTarget, Relaxed, num_processes, similarity
from pretrain.views import VIEWS, Labels, Pair, Pixels, View, patchify, take, unpatchify

if TYPE_CHECKING:
    from pretrain.data import Batch

GREY = 0.5  # of hidden patches in a picture


def build(
    method: Method, arch: str, *, img_size: int | tuple[int, int], num_classes: int = 0, seed: int, **timm_options: Any
) -> "Siamese":
    """A method's modules for an architecture, initialised by `seed`; torch's generator stays as it was.

    `num_classes` is of labels, where the similarity is one to labels; `timm_options` go to timm (`drop_path_rate`).
    Raises UserError where method, architecture and size do not fit.
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
        encoder: the timm model; what is exported, with `mask_token`.
        mask_token: what the encoder sees of a hidden patch, [1, 1, D]; None where it sees none.
        crops: of each image that the views need.
        needs_labels, needs_occluders: what else of a batch is read.
    """

    def __init__(self, method: Method, encoder: Any, img_size: tuple[int, int], num_classes: int) -> None:
        """Put what the method compares with on an encoder made for it (`build`)."""
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
        """Losses by name, each a scalar; their sum is minimised. Masks are drawn from the device's generator."""
        first, second = self._views(batch)
        if isinstance(second, Labels):
            one = self.embedding(self._features(first), first, None)
            return self.similarity(one, second.labels, None, None)
        if isinstance(second, Pixels):
            one = self.embedding(self._features(first), first, first.hidden)
            return self.similarity(one, self._true(second.images, first.hidden), first.hidden, None)
        self._check_batch(len(batch.images) * num_processes())
        return self._compare_encodings(first, second)

    @property
    def _is_constant(self) -> bool:
        """Whether no gradient comes from the second view's side; R-MAE's reconstruction has one."""
        stopped = self.target is not None or self.method.stop_gradient
        return stopped and not isinstance(self.similarity, Relaxed)

    def _check_batch(self, number: int) -> None:
        """Raise UserError for a single image where images are told apart or normalised over the batch."""
        name, level = self.method.similarity, self.method.level
        if number < 2 and (name == "infonce" or level == "pooled"):
            raise UserError(
                f"The similarity {name} of {level} views compares an image with the others of its batch, and the batch "
                f"has one image. Give a batch size of at least 2 (MoCo v3 has 4096), or the similarity relaxed-l2."
            )

    def _compare_encodings(self, first: View, second: View) -> dict[str, Tensor]:
        """Encode both views, each by what has to learn from it and by what is the target."""
        one = self._features(first)
        alone = self._is_constant and not self.method.symmetric  # nothing learns from the second view
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
            needed = self.target is None or self.method.symmetric
            two = self._features(second) if needed else None
        losses = self._compare(one, first, self._target_features(two, second), second)
        if self.method.symmetric:
            assert two is not None
            other = self._compare(two, second, self._target_features(one, first), first)
            losses = {name: (losses[name] + other[name]) / 2 for name in losses}
        return losses

    def _compare(self, one: Tensor, first: View, two: Tensor, second: View) -> dict[str, Tensor]:
        """Compare what is predicted from the first view's features with the target's of the second."""
        at = second.shown if self.method.level == "tokens" else None
        # The query comes first: autocast keeps its casts of weights, and those made without gradient have none.
        query = self.embedding(one, first, at)
        embedding = self.embedding if self.target is None else self.target["embedding"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._is_constant):
            key = embedding(two, second, None)
        pixels = None
        if isinstance(self.similarity, Relaxed):
            pixels = self._true(first.images, at)
        return self.similarity(query, key, at, pixels)

    def _features(self, view: View, encoder: Any = None) -> Tensor:
        """Features of a view: the encoder's last ones, or [N, 1, D] where views are pooled."""
        encoder = self.encoder if encoder is None else encoder
        features = encoders.encode(encoder, view, self.mask_token)
        if self.method.level == "pooled":
            return encoder.forward_head(features, pre_logits=True)[:, None]
        return encoders.final_norm(encoder)(features)

    def _target_features(self, shared: Tensor | None, view: View) -> Tensor:
        """Features of a view for the target: those of the encoder, or of its moving average."""
        if self.target is None:
            assert shared is not None
            return shared
        with torch.no_grad():
            return self._features(view, self.target["encoder"])

    def _views(self, batch: "Batch") -> Pair:
        """The method's pair, its masks drawn."""

        def draw() -> tuple[Tensor, Tensor]:
            assert self.masking is not None
            return self.masking(len(batch.images), batch.images.device, batch.occluders)

        return VIEWS[self.method.views](batch, self.method, draw)

    def _true(self, images: Tensor, at: Tensor | None) -> Tensor:
        """The pixels at the positions, as they have to be said."""
        assert self.pixels is not None
        assert at is not None
        return self.pixels(images, at)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def after_step(self, progress: float) -> None:
        """Move the target towards the encoder; `progress` of the training is from 0 to 1 (MoCo v3: a cosine)."""
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
        """Masked input, reconstruction and target, [N, 3, 3, H, W] in 0-1; None where no pixels are decoded.

        `mean` and `std` are what the batch was normalised with. A reconstruction of normalised pixels is
        shown with each patch's true mean and deviation, as MAE's pictures are.
        """
        if not self.method.masks or self.method.similarity in ("infonce", "cosine"):
            return None
        first, _ = self._views(batch)
        assert first.hidden is not None
        size, grid = _patch_size(self.encoder), self.masking.grid if self.masking else (1, 1)
        said = self.embedding(self._features(first), first, first.hidden).float()
        patches = patchify(batch.images, size)
        if self.method.norm_pix_loss:
            variance, centre = torch.var_mean(take(patches, first.hidden), dim=-1, keepdim=True)
            said = said * (variance + 1e-6).sqrt() + centre
        colour = [torch.tensor(c, device=said.device).view(1, 3, 1, 1) for c in (mean, std)]
        grey = patchify(((GREY - colour[0]) / colour[1]).expand_as(batch.images), size)
        places = first.hidden[:, :, None].expand_as(said)
        masked = patches.scatter(1, places, take(grey, first.hidden))
        images = [unpatchify(p, size, grid) for p in (masked, patches.scatter(1, places, said))]
        shown = [image * colour[1] + colour[0] for image in [*images, batch.images]]
        return torch.stack(shown, 1).clamp(0, 1)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, besides biases and norms."""
        own = {f"encoder.{name}" for name in getattr(self.encoder, "no_weight_decay", set)()}
        names = {name for name, _ in self.named_parameters()}
        return names & own | {name for name in names if name.endswith("mask_token")}


def _patch_size(encoder: Any) -> tuple[int, int]:
    height, width = encoder.patch_embed.patch_size
    return height, width


def _masking(method: Method, encoder: Any) -> Masking:
    """Masks on the encoder's grid of patches; raises UserError where the unit does not divide."""
    patch = max(_patch_size(encoder))
    if method.mask_unit % patch:
        raise UserError(
            f"A mask unit of {method.mask_unit} pixels is no multiple of the patch of {patch}. Give one that is, "
            f"such as {2 * patch}, or 0 for single patches."
        )
    return Masking(
        kind=method.masking,
        ratio=method.mask_ratio,
        grid=tuple(encoder.patch_embed.grid_size),
        unit=max(method.mask_unit // patch, 1),
    )


def _mask_token(encoder: Any) -> nn.Parameter:
    width = encoder.patch_embed.proj.out_channels
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))


def _embedding(method: Method, encoder: Any, img_size: tuple[int, int], num_classes: int) -> nn.Module:
    """What the method compares: pixels, projections or logits."""
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
    widths = (width, hidden, hidden, method.projection_dim)
    return Embedding(decoder, Perceptron(widths, last_norm=True))


def _decoder(method: Method, encoder: Any) -> Decoder:
    if not isinstance(encoder, VisionTransformer):
        raise UserError(
            f"A decoder stands on the tokens of a plain ViT, and {type(encoder).__name__} is none. Take a ViT "
            f"such as vit_base_patch16_224, or the method simmim, whose head is linear."
        )
    decoder = Decoder(
        encoder.embed_dim,
        encoder.patch_embed.grid_size,
        encoder.num_prefix_tokens,
        method.decoder_dim,
        method.decoder_depth,
        method.decoder_heads,
    )
    decoder.mask_token.requires_grad_(method.views != "masked-pixels")  # else the encoder has its own
    return decoder
