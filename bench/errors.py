"""A user's mistake as one paragraph; the command lines print it and exit with status 2."""

import difflib
from collections.abc import Iterable

LIST_COMMANDS = {  # by kind of name
    "backbone": "bench.run --list backbones",
    "task": "bench.run --list tasks",
    "protocol": "bench.run --list protocols",
    "data set": "bench.datasets list",
}


class UserError(ValueError):
    """A user's mistake; the message gives the value, what is allowed, the nearest match, and what to do."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """Return the error that `given` is not a known `kind`, with the nearest `allowed` names."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    commands = [command for name, command in LIST_COMMANDS.items() if kind.startswith(name)]
    if not near and len(names) <= 12:
        hint = f"Known: {', '.join(names) or 'none'}. "
    where = f"All of them: python -m {commands[0]}" if commands else ""
    return UserError(f"Unknown {kind} '{given}'. {hint}{where}".strip())
