"""Data sets: their folders, items and labels; checked, drawn and prepared."""
