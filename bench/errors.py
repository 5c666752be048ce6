"""What a user can get wrong, said in one paragraph; the CLI prints it and exits with 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's: what was given, what is allowed, the nearest match, what to do."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """Say that `given` is no `kind`, with the nearest of the `allowed` names."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    elif len(names) <= 12:
        hint = f"Known: {', '.join(names) or 'none'}."
    else:
        hint = f"{len(names)} are known."
    plural = {"task family": "tasks"}.get(kind, f"{kind.split()[0]}s")
    return UserError(
        f"Unknown {kind} '{given}'. {hint} All of them: python -m bench.run --list {plural}"
    )
