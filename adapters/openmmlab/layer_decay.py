"""Layer-wise learning-rate decay for any model whose `.backbone` is a FeatureExtractor.

`config.adamw` returns the settings that name it. The layers are timm's own (`FeatureExtractor.layer_groups`).
OpenMMLab's constructors go by their own parameter names, find none in a timm model, and silently train every layer at
the full rate.
"""

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from bench.backbones.extract import FeatureExtractor
from bench.errors import UserError

PREFIX = "backbone.model."


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor:
    """Builds the optimizer over groups of equal layer and weight decay.

    Layer k of L (0 is the stem with the position embeddings, then one per block) learns at lr * layer_decay^(L - k),
    and everything outside the backbone at lr, as in MAE: the patch embedding of a ViT of depth d at
    lr * layer_decay^(d + 1). timm counts the final norm as part of the last block. Vectors, scalars and the
    parameters in the model's `no_weight_decay()` have no weight decay.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        """Take mmengine's settings; `paramwise_cfg` is {"layer_decay": factor}, None or 1 for no decay."""
        settings = dict(paramwise_cfg or {})
        self.layer_decay = settings.pop("layer_decay", None) or 1.0
        assert not settings, f"LayerDecayConstructor does not read {sorted(settings)}"
        self.settings = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper; raises UserError when the decay would have no effect."""
        wrapper = {"type": "OptimWrapper", **self.settings}
        optimizer = dict(wrapper.pop("optimizer"))
        groups = parameter_groups(
            getattr(model, "module", model),
            lr=optimizer["lr"],
            weight_decay=optimizer.get("weight_decay", 0.0),
            layer_decay=self.layer_decay,
        )
        built = OPTIMIZERS.build({**optimizer, "params": groups})
        return OPTIM_WRAPPERS.build({**wrapper, "optimizer": built})


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Return groups of all trainable parameters, by learning rate and weight decay (see LayerDecayConstructor)."""
    scales = {} if layer_decay == 1.0 else _scales(model, layer_decay)
    undecayed = set(_undecayed(model))
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale, decays = scales.get(name, 1.0), name not in undecayed
        group = {"params": [], "lr": lr * scale, "weight_decay": weight_decay * decays}
        groups.setdefault((scale, decays), group)["params"].append(parameter)
    return list(groups.values())


def _scales(model: nn.Module, layer_decay: float) -> Mapping[str, float]:
    """Return the rate's factor of each trainable parameter of the backbone, by its name in the model."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, FeatureExtractor):
        raise _no_effect(f"it is a {type(backbone).__name__}, not a TimmBackbone")
    layers, head = backbone.layer_groups()
    trained = {name: layer for name, layer in layers.items() if model.get_parameter(PREFIX + name).requires_grad}
    if len(set(trained.values())) < 2:
        raise _no_effect("it has fewer than two trainable layers")
    if lost := sorted(name for name, layer in trained.items() if layer == head):
        raise _no_effect(f"timm puts these parameters into no layer: {', '.join(lost[:5])}")
    return {PREFIX + name: layer_decay ** (head - layer) for name, layer in trained.items()}


def _no_effect(reason: str) -> UserError:
    return UserError(
        f"layer_decay has no effect on this model's backbone: {reason}. Set layer_decay to None in the protocol, or "
        "use a backbone whose layers timm groups: ViT, Swin, SwinV2, ConvNeXt, ResNet, EfficientNet, Hiera."
    )


def _undecayed(model: nn.Module) -> Iterator[str]:
    """Yield the names of the parameters without weight decay."""
    backbone = getattr(model, "backbone", None)
    patterns: set[str] = set()
    if isinstance(backbone, FeatureExtractor) and hasattr(backbone.model, "no_weight_decay"):
        patterns = {PREFIX + name for name in backbone.model.no_weight_decay()}
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1 or any(fnmatch.fnmatchcase(name, p) for p in patterns):
            yield name
