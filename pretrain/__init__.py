"""Pretraining of backbones: a method is a pair of views and a similarity; the result is a weights file."""
