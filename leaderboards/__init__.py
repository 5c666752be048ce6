"""Markdown tables from one JSON record per number."""
