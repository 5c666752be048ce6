"""The encoder: a timm model on masked images, whose hidden patches are left out or replaced by mask tokens."""

import math
from typing import Any

import torch
from timm.layers import PatchEmbed, use_fused_attn
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from bench.backbones import timm_models
from bench.errors import UserError
from pretrain.methods import Method
from pretrain.views import View, patchify, take


def build(method: Method, arch: str, img_size: int | tuple[int, int], **options: Any) -> Any:
    """Build a timm model without classifier, initialised from torch's generator as the method defines.

    `options` go to timm. Raises UserError for an architecture that the method cannot train.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    drop_path_rate = options.pop("drop_path_rate", 0.0)
    encoder: Any
    encoder, _ = timm_models.create(
        arch, img_size=size, drop_path_rate=drop_path_rate, timm_options={"dynamic_img_size": False, **options}
    )
    _check(method, encoder, arch, size)
    if isinstance(encoder, VisionTransformer) and method.init != "timm":
        _initialise(encoder, method.init)
    if method.freeze_patch_embed and isinstance(encoder, VisionTransformer):
        encoder.patch_embed.requires_grad_(False)
    return encoder


def _check(method: Method, encoder: Any, arch: str, size: tuple[int, int]) -> None:
    """Raise UserError unless the encoder can take the method's views at this size."""
    patch = getattr(getattr(encoder, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and (size[0] % patch[0] or size[1] % patch[1]):
        raise UserError(
            f"Images of {size[0]} x {size[1]} do not divide into {arch}'s patches of {patch[0]} x {patch[1]}. "
            f"Give an image size that is a multiple of the patch, such as "
            f"{max(size[0] // patch[0], 1) * patch[0]}."
        )
    plain = isinstance(encoder, VisionTransformer) and type(encoder.patch_embed) is PatchEmbed
    if (method.views in ("visible-pixels", "mask-complement")) and not plain:
        raise UserError(
            f"The views {method.views} leave hidden patches out, which only a plain ViT can do, and {arch} is not "
            f"one. Choose a ViT such as vit_base_patch16_224, or the method simmim, which replaces hidden patches."
        )
    if method.views == "masked-pixels" and not isinstance(
        encoder, (VisionTransformer, Beit, SwinTransformer, SwinTransformerV2)
    ):
        raise UserError(
            f"The views masked-pixels replace patch embeddings by mask tokens, for ViT, BEiT, Swin and SwinV2, and "
            f"{arch} is none of these. Choose one of them, or the method moco or supervised."
        )


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Return MAE's fixed position embedding of a grid of (rows, columns): [rows * columns, dim].

    The quarters of the channels are sin and cos of the column, sin and cos of the row, each at the
    frequencies 10000 ** (-4 i / dim), i = 0 ... dim / 4 - 1.
    """
    assert dim % 4 == 0, dim
    frequencies = 10000.0 ** (-4 * torch.arange(dim // 4, dtype=torch.float64) / dim)
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [position.reshape(-1, 1) * frequencies for position in (column, row)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1).float()


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
def _initialise(encoder: Any, how: str) -> None:
    """Initialise as MAE's or MoCo v3's code does, with fixed positions."""
    if encoder.pos_embed is not None:
        prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
        encoder.pos_embed.zero_()[0, prefix:] = sincos_positions(encoder.patch_embed.grid_size, encoder.embed_dim)
        encoder.pos_embed.requires_grad_(False)
    initialise_linear(encoder)
    weight = encoder.patch_embed.proj.weight
    nn.init.xavier_uniform_(weight.view(len(weight), -1))
    if how == "moco":  # Xavier's bound for query, key and value as three matrices
        for block in encoder.blocks:
            bound = math.sqrt(6 / (2 * encoder.embed_dim))
            nn.init.uniform_(block.attn.qkv.weight, -bound, bound)
    if encoder.cls_token is not None:
        nn.init.normal_(encoder.cls_token, std=0.02 if how == "mae" else 1e-6)


def initialise_linear(module: nn.Module) -> None:
    """Initialise every linear layer by Xavier's uniform distribution, with zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def choose_attention(module: nn.Module, device: torch.device, bf16: bool) -> None:
    """Let timm's attention layers use torch's fused attention, except in bf16 on a CPU, where it is slower.

    There its backward makes a step of MAE take 1.1 (ViT-B, 224 pixels) to 1.9 times (ViT-Ti, 96 pixels) as long as
    plain matrix products.
    """
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = use_fused_attn() and not (bf16 and device.type == "cpu")


def encode(encoder: Any, view: View, mask_token: Tensor | None) -> Tensor:
    """Return the encoder's last features: [N, P + K, D] with P prefix tokens, or timm's shape for other models."""
    if view.shown is None or view.hidden is None:
        return encoder.forward_features(view.images)
    if view.replaced:
        assert mask_token is not None
        return _encode_replaced(encoder, view.images, view.hidden, mask_token)
    return _encode_shown(encoder, view.images, view.shown)


def _encode_shown(vit: Any, images: Tensor, shown: Tensor) -> Tensor:
    """Run a plain ViT on the patches at `shown` only; the others are not even embedded."""
    proj, prefix = vit.patch_embed.proj, vit.num_prefix_tokens
    patches = take(patchify(images, vit.patch_embed.patch_size), shown)
    tokens = vit.patch_embed.norm(F.linear(patches, proj.weight.flatten(1), proj.bias))
    positions = vit.pos_embed
    first = [t for t in (vit.cls_token, vit.reg_token) if t is not None]
    if positions is not None:
        own = 0 if vit.no_embed_class else prefix
        tokens = tokens + take(positions[:, own:], shown)
    if first:
        start = torch.cat(first, 1)
        if positions is not None and not vit.no_embed_class:
            start = start + positions[:, :prefix]
        tokens = torch.cat([start.expand(len(images), -1, -1).to(tokens.dtype), tokens], 1)
    tokens = vit.norm_pre(vit.pos_drop(tokens))
    return vit.norm(vit.blocks(tokens))


def final_norm(encoder: Any) -> nn.Module:
    """Return the norm of models that normalise only after pooling; unpooled features need it too."""
    pools = isinstance(getattr(encoder, "norm", None), nn.Identity)
    return getattr(encoder, "fc_norm", nn.Identity()) if pools else nn.Identity()


def _encode_replaced(encoder: Any, images: Tensor, hidden: Tensor, mask_token: Tensor) -> Tensor:
    """Run the encoder's forward pass with the mask token in place of the hidden patches' embeddings."""
    embedded = encoder.patch_embed(images)
    tokens = embedded.flatten(1, -2)
    places = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    places = places.scatter(1, hidden, True)[:, :, None]
    tokens = torch.where(places, mask_token.to(tokens.dtype), tokens)
    return encoder.norm(_blocks(encoder, tokens.view_as(embedded)))


def _blocks(encoder: Any, embedded: Tensor) -> Tensor:
    """Do what timm's `forward_features` does between the patch embedding and the last norm.

    A hook that changes the embedding would be simpler, but torch.compile would recompile it in each step.
    """
    if isinstance(encoder, VisionTransformer):
        return encoder.blocks(encoder.norm_pre(encoder._pos_embed(embedded)))
    if not isinstance(encoder, Beit):
        return encoder.layers(embedded)
    tokens = torch.cat([encoder.cls_token.expand(len(embedded), -1, -1), embedded], 1)
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    tokens = encoder.pos_drop(tokens)
    bias = None if encoder.rel_pos_bias is None else encoder.rel_pos_bias()
    for block in encoder.blocks:
        tokens = block(tokens, shared_rel_pos_bias=bias)
    return tokens
