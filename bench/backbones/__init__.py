"""Backbones: a name or a file -> Backbone -> a timm model with its weights."""

from bench.backbones.backbone import Backbone

__all__ = ["Backbone"]
