"""What a user can get wrong, said in one paragraph; the CLI prints it and exits with 2."""

import difflib
from collections.abc import Iterable

LISTED = {  # the kinds of name that a command prints
    "backbone": "bench.run --list backbones",
    "task": "bench.run --list tasks",
    "protocol": "bench.run --list protocols",
    "data set": "bench.datasets list",
}


class UserError(ValueError):
    """A mistake of the user's: what was given, what is allowed, the nearest match, what to do."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """Say that `given` is no `kind`, with the nearest of the `allowed` names."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    listed = [command for listing, command in LISTED.items() if kind.startswith(listing)]
    if not near and len(names) <= 12:
        hint = f"Known: {', '.join(names) or 'none'}. "
    where = f"All of them: python -m {listed[0]}" if listed else ""
    return UserError(f"Unknown {kind} '{given}'. {hint}{where}".strip())
