"""Pretraining: siamese methods as views and a similarity; what comes out is a weights file."""
