"""The command that inspects weights files.

python -m bench.backbones inspect FILE [FILE ...]
"""

import sys
from collections.abc import Sequence

from bench.backbones.resolve import locate
from bench.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Print format, architecture, sizes and hash of each weights file; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) < 2 or words[0] != "inspect":
        sys.stderr.write("usage: python -m bench.backbones inspect FILE [FILE ...]\n")
        return 2
    from bench.backbones.inspect import inspect

    try:
        for word in words[1:]:
            path, _, part = word.partition("#")
            sys.stdout.write(f"{inspect(locate(path), part or None)}\n")
    except UserError as error:
        sys.stderr.write(f"bench.backbones: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
