"""Resample an encoder's tensors to the sizes of the model that takes them."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def adapt(
    key: str, tensor: "Tensor", own: "Tensor", model: "nn.Module", grid: tuple[int, int] | None = None
) -> "Tensor":
    """Resample a tensor of a file to the size of `own`, which `model` has under the same key.

    `grid` is (rows, columns) of the file's position embeddings, if the file states it.

    - The first convolution to another number of input channels, from three: one is their sum, more
      repeat them and are scaled by 3 / n, so that a constant image gives what it gave.
    - The patch embedding to another patch size (`_patches`).
    - Position embeddings to another grid (`_positions`).
    - Tables of relative position bias to another window (`_window`), and the decomposed tables of SAM,
      linearly, as its code does.

    Any other tensor, and one that fits or cannot be resampled, is returned as the same object.
    """
    name = key.rpartition(".")[2]
    if key in _first_convolutions(model) and own.ndim == tensor.ndim == 4:
        return _patches(_channels(tensor, own.shape[1]), own)
    if key == "pos_embed" and own.ndim == tensor.ndim and own.shape[-1] == tensor.shape[-1]:
        return _positions(tensor, own, model, grid)
    if name == "relative_position_bias_table" and own.ndim == tensor.ndim == 2:
        return _window(tensor, own, model.get_submodule(key.removesuffix(f".{name}")))
    if name in ("rel_pos_h", "rel_pos_w") and own.shape[1:] == tensor.shape[1:]:
        return _offsets(tensor, len(own))
    return tensor


def trained_windows(arch: str) -> dict[str, Any]:
    """The windows by which SwinV2 divides its coordinates, as an option of `timm.create_model`; else {}.

    They are those of the pretraining. timm takes the model's own where an architecture states none, and
    its bias then changes with the size of the image: with every window that is not the architecture's.
    """
    import timm
    import torch

    if not timm.models.model_entrypoint(arch).__module__.endswith(".swin_transformer_v2"):
        return {}
    with torch.device("meta"):
        model = timm.create_model(arch)
    attentions = [stage.blocks[0].attn for stage in model.layers]
    windows = (a.pretrained_window_size[0] or a.window_size[0] for a in attentions)
    return {"pretrained_window_sizes": tuple(windows)}


def _first_convolutions(model: "nn.Module") -> list[str]:
    """The keys of the weights that see the image, of which timm lists one or several for each model."""
    first: Any = model.pretrained_cfg.get("first_conv") or ()
    return [f"{name}.weight" for name in ((first,) if isinstance(first, str) else first)]


def _channels(weight: "Tensor", number: int) -> "Tensor":
    """[D, 3, h, w] to [D, number, h, w]; what the channels of any other file are is not known."""
    from timm.models import adapt_input_conv

    return adapt_input_conv(number, weight) if weight.shape[1] == 3 else weight


def _patches(weight: "Tensor", own: "Tensor") -> "Tensor":
    """[D, C, h, w] to the patch size of `own`: FlexiViT's pseudo-inverse (arXiv 2212.08013, equation 3).

    The product with a bilinearly enlarged patch is that of the patch with `weight`, exactly; to smaller
    patches, where antialiasing sets in, it is nearest to it in the least-squares sense.
    """
    from timm.layers import resample_patch_embed

    if weight.shape[:2] != own.shape[:2] or weight.shape == own.shape:
        return weight
    return resample_patch_embed(weight, list(own.shape[-2:]), interpolation="bilinear")


def _positions(embedding: "Tensor", own: "Tensor", model: Any, grid: tuple[int, int] | None) -> "Tensor":
    """[1, P + h w, D] or [1, h, w, D] to the model's grid: bicubic, antialiased, the P prefix tokens unchanged.

    The length alone does not determine a grid's sides. Unless the file states them, a square number of patches is taken
    as a square, even if the model's grid has the same number and is not square; any other number must be the model's
    own grid.
    """
    from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc

    if embedding.shape == own.shape and embedding.ndim == 4:
        return embedding
    if embedding.ndim == 4:
        size = list(own.shape[1:3])
        known = own.shape[-1] == getattr(model, "embed_dim", None)  # others keep channels first
        return resample_abs_pos_embed_nhwc(embedding, size) if known else embedding
    rows, columns = getattr(model, "tokens_spatial_shape", None) or model.patch_embed.grid_size
    prefix = own.shape[1] - rows * columns
    patches = embedding.shape[1] - prefix
    side = math.isqrt(max(patches, 0))
    old = grid or (side, side)
    if prefix < 0 or old[0] * old[1] != patches or (rows, columns) == old:
        return embedding
    size = [rows, columns]
    return resample_abs_pos_embed(embedding, size, old_size=[*old], num_prefix_tokens=prefix)


def _window(table: "Tensor", own: "Tensor", attention: Any) -> "Tensor":
    """[(2h - 1)(2w - 1) (+ 3), heads] of a square window to the window of `attention`.

    By BEiT's geometric progression, as timm and SimMIM do and not by Swin's bicubic stretch: the biases of
    near neighbours stay those of near neighbours. The 3 entries of a class token are unchanged.
    """
    from timm.layers import resize_rel_pos_bias_table

    rows, columns = attention.window_size
    extra = len(own) - (2 * rows - 1) * (2 * columns - 1)
    offsets = len(table) - extra
    side = math.isqrt(max(offsets, 0))
    if table.shape[1] != own.shape[1] or side**2 != offsets or side % 2 == 0:
        return table
    return resize_rel_pos_bias_table(table, (rows, columns), own.shape)


def _offsets(table: "Tensor", number: int) -> "Tensor":
    """[2h - 1, D] to `number` offsets, linearly (`get_rel_pos` of SAM and of ViTDet)."""
    from torch.nn.functional import interpolate

    if len(table) == number:
        return table
    resized = interpolate(table.float().T[None], size=number, mode="linear")[0].T
    return resized.to(table.dtype)
