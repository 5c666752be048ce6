"""The normalisation of the images that a backbone's weights were trained with."""

import json
from typing import TYPE_CHECKING

from bench.backbones.formats import RGB
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.backbones.backbone import Backbone


def normalisation(backbone: "Backbone") -> tuple[RGB, RGB]:
    """Return the mean and std (RGB, of images in 0-1) that the weights were trained with.

    The first that is known of: the backbone's own; its file's header; its file's format; timm's published weights of
    its tag; those of its architecture, if they all agree. Raises UserError if none is known: features of wrongly
    normalised images look plausible and are wrong.
    """
    if backbone.mean and backbone.std:
        return backbone.mean, backbone.std
    mean, std = _from_file(backbone) or _published_normalisation(backbone)
    return backbone.mean or mean, backbone.std or std


def _from_file(backbone: "Backbone") -> tuple[RGB, RGB] | None:
    """Return what the weights file's header or format states."""
    if backbone.weights is None or backbone.tag:
        return None
    from bench.backbones.inspect import inspect

    stated = backbone.pretraining
    if "mean" in stated and "std" in stated:
        return tuple(json.loads(stated["mean"])), tuple(json.loads(stated["std"]))
    return inspect(backbone.weights, backbone.part).normalisation


def _published_normalisation(backbone: "Backbone") -> tuple[RGB, RGB]:
    """Return that of timm's weights of the tag, else of the architecture; for scratch, of its default tag."""
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
        f"The weights file {file.name} does not state how its images were normalised, and timm's own weights of "
        f"{arch} do not decide it ({differ or 'there are none'}). Give it as ARCH.TAG@{file.name} with the tag of "
        f"the weights with the same normalisation, or give its mean and std in an entry (--include)."
    )
