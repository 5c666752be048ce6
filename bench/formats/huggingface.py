"""TODO."""

from bench.formats import Format

FORMATS: tuple[Format, ...] = ()
