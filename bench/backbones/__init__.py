"""Backbones: a name or a file -> Backbone -> a timm model with its weights."""
