"""Generators of documentation pages and tables."""
