"""What a user can get wrong, said in one paragraph; the CLI prints it and exits with 2."""

import difflib
from collections.abc import Iterable

LISTED = ("backbone", "task", "protocol")  # the kinds of name that `bench.run --list` prints


class UserError(ValueError):
    """A mistake of the user's: what was given, what is allowed, the nearest match, what to do."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """Say that `given` is no `kind`, with the nearest of the `allowed` names."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    listed = kind.split()[0] in LISTED
    if not near and len(names) <= 12:
        hint = f"Known: {', '.join(names) or 'none'}. "
    where = f"All of them: python -m bench.run --list {kind.split()[0]}s" if listed else ""
    return UserError(f"Unknown {kind} '{given}'. {hint}{where}".strip())
