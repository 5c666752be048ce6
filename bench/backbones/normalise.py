"""How the images that a backbone's weights were made with were normalised."""

import json
from typing import TYPE_CHECKING

from bench.backbones.formats import RGB
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.backbones.backbone import Backbone


def normalisation(backbone: "Backbone") -> tuple[RGB, RGB]:
    """The mean and std (RGB, of images in 0-1) that the weights were made with.

    The backbone's own; else what its file's header or format says; else those of timm's published
    weights of its tag, or of its architecture where these agree. A file for which none of this tells is
    refused: features of wrongly normalised images look right and are not.
    """
    if backbone.mean and backbone.std:
        return backbone.mean, backbone.std
    mean, std = _told(backbone) or _published_normalisation(backbone)
    return backbone.mean or mean, backbone.std or std


def _told(backbone: "Backbone") -> tuple[RGB, RGB] | None:
    """What the weights file itself says."""
    if backbone.weights is None or backbone.tag:
        return None
    from bench.backbones.inspect import inspect

    said = backbone.pretraining
    if "mean" in said and "std" in said:
        return tuple(json.loads(said["mean"])), tuple(json.loads(said["std"]))
    return inspect(backbone.weights, backbone.part).normalisation


def _published_normalisation(backbone: "Backbone") -> tuple[RGB, RGB]:
    """That of timm's weights of the tag, or of the architecture; for scratch, of its default tag."""
    import timm

    arch, file = backbone.arch, backbone.weights
    default = timm.get_pretrained_cfg(f"{arch}.{backbone.tag}" if backbone.tag else arch)
    if file is None or backbone.tag:
        return default.mean, default.std
    names = timm.list_models(f"{arch}.*", pretrained=True)
    configs = {name: timm.get_pretrained_cfg(name) for name in names}
    known = {(c.mean, c.std): name for name, c in configs.items()}
    if len(known) == 1:
        return default.mean, default.std
    differ = "; ".join(f"{name} has mean {mean}, std {std}" for (mean, std), name in known.items())
    raise UserError(
        f"The weights file {file.name} does not tell how its images were normalised, and timm's own weights of "
        f"{arch} do not settle it ({differ or 'there are none'}). Give it as ARCH.TAG@{file.name} with the tag of "
        f"those that it was made like, or give its mean and std in an entry (--include)."
    )
