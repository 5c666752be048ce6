"""Generate, check or draw an embedded world.

python -m bench.scenes --out DIR --size N --seed S
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import NoReturn

from bench.errors import UserError
from bench.scenes.world import World, check, make


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See python -m bench.scenes --help")


def _parser() -> argparse.ArgumentParser:
    default = World()
    parser = _Parser(prog="python -m bench.scenes", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help="The folder to generate, or to check.")
    for flags, field, unit, text in (
        (("--size", "--train"), "train", "N", "Number of training scenes"),
        (("--videos",), "videos", "N", "Number of tracking videos"),
        (("--frames",), "frames", "N", "Frames of each video"),
        (("--swaps",), "swaps", "N", "Cue-conflict images of each pair of classes"),
        (("--image-size",), "size", "PIXELS", "Width and height of every image"),
        (("--seed",), "seed", "S", "Another seed is another world"),
    ):
        value, text = getattr(default, field), f"{text} (default: %(default)s)."
        parser.add_argument(*flags, dest=field, type=int, default=value, metavar=unit, help=text)
    parser.add_argument("--val", type=int, metavar="N", help="Number of validation scenes (default: a fifth).")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="Where to render (default: %(default)s)."
    )
    parser.add_argument("--workers", type=int, metavar="N", help="Processes that render (default: one per core).")
    parser.add_argument("--check", action="store_true", help="Hash every file of the world in --out; generate nothing.")
    parser.add_argument("--picture", type=Path, metavar="FILE.png",
                        help="Draw scenes with every label, and FILE-tasks.png, instead of a world.")  # fmt: skip
    return parser


def _run(arguments: list[str] | None) -> None:
    given = _parser().parse_args(arguments)
    if given.picture:
        from bench.scenes.draw import draw_page

        second = draw_page(given.picture, given.seed)
        print(f"drew {given.picture} and {second}")  # noqa: T201
        return
    if given.out is None:
        raise UserError("No folder was given. Give the folder of the world: python -m bench.scenes --out DIR")
    if given.check:
        manifest = check(given.out, contents=True)
        total = sum(map(len, manifest["files"].values()))
        print(f"{given.out}: all {total} files are as they were generated")  # noqa: T201
        return
    if given.workers is not None and given.workers < 1:
        raise UserError(f"--workers is {given.workers}; give at least 1.")
    _make(given)


def _make(given: argparse.Namespace) -> None:
    val = max(10, given.train // 5) if given.val is None else given.val
    world = World(train=given.train, val=val, videos=given.videos, frames=given.frames,
                  swaps=given.swaps, size=given.size, seed=given.seed)  # fmt: skip
    if given.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device is cuda, but torch finds no GPU here. Use --device cpu.")
    start = time.monotonic()
    root = make(world, given.out, workers=given.workers, device=given.device)
    print(f"{root}: fingerprint {world.fingerprint()[:16]}, {time.monotonic() - start:.1f} s")  # noqa: T201


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 when the request was wrong."""
    logging.basicConfig(format="%(message)s")
    try:
        _run(arguments)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("Stopped; no incomplete world was left behind.", file=sys.stderr)  # noqa: T201
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
