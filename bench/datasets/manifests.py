"""What lies beside the tar files of a folder and says what they are: how many images, and each tar's size and hash.

`bench.datasets.prepare` and `pretrain.shards` write one, and complete it tar by tar.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError

MANIFEST = "manifest.json"


def read(folder: Path) -> dict[str, Any]:
    """The folder's manifest, {} where there is none; raises UserError for a damaged one."""
    path = folder / MANIFEST
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. Delete {folder} and make its tar files anew."
        ) from None


def check_whole(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise UserError where a tar is missing or of another size than told, or not all were written yet."""
    prepared = "recipe" in manifest
    command = f"python -m {'bench.datasets prepare' if prepared else 'pretrain.shards'}"
    gone = "its entry there: that tar alone" if prepared else f"{folder}: all of it"
    for name, told in manifest["tars"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != told["bytes"]:
            raise UserError(
                f"{path} {'is missing' if size is None else f'has {size:,} bytes'}, and {MANIFEST} beside it says "
                f"{told['bytes']:,}. Fetch it anew, or delete {gone} is made anew by {command}."
            )
    there = sum(told["images"] for told in manifest["tars"].values())
    if there != manifest["images"]:
        raise UserError(
            f"{folder} holds {there:,} of {manifest['images']:,} images: {command} was stopped. Run the same command "
            f"again; it goes on where it was."
        )
