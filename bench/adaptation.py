"""An encoder's tensors at the sizes of the model that takes them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def adapt(key: str, tensor: "Tensor", own: "Tensor", model: "nn.Module") -> "Tensor":
    """Resample a tensor of a file to the size of `own`, which `model` has under the same key.

    Position embeddings (bicubic, antialiased, prefix tokens kept), tables of relative position bias, the
    patch embedding of another patch size (FlexiViT's pseudo-inverse, arXiv 2212.08013 section 3.4), and the
    first convolution of another number of input channels. What is none of these, or fits, comes back as it is.
    """
    from timm.layers import (
        resample_abs_pos_embed,
        resample_patch_embed,
        resize_rel_pos_bias_table,
    )

    if own.shape == tensor.shape:
        return tensor
    if key == "pos_embed" and tensor.ndim == own.ndim == 3 and tensor.shape[-1] == own.shape[-1]:
        grid: Any = model.patch_embed.grid_size
        prefix = own.shape[1] - grid[0] * grid[1]
        return resample_abs_pos_embed(tensor, list(grid), num_prefix_tokens=prefix)
    if key.endswith("relative_position_bias_table"):
        owner: Any = model.get_submodule(key.rpartition(".")[0])
        return resize_rel_pos_bias_table(tensor, owner.window_size, own.shape)
    if key == "patch_embed.proj.weight" and tensor.shape[:2] == own.shape[:2]:
        return resample_patch_embed(tensor, list(own.shape[-2:]))
    return tensor
