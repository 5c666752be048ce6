"""Data sets: their folders, items and labels; checked, drawn and prepared."""

from bench.datasets.dataset import UNSTATED, Dataset, EmbeddedWorld, Facts

__all__ = ["UNSTATED", "Dataset", "EmbeddedWorld", "Facts"]
