"""Files of the Hugging Face hub: from this machine's cache, or fetched where there is a network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError

FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")


def settings(repository: str, file: str) -> dict[str, Any]:
    """A JSON file of a hub's repository; {} where it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return dict(json.loads(Path(hf_hub_download(repository, file)).read_text("utf-8")))
    except (EntryNotFoundError, OSError):  # offline, what it never had is just not in the cache
        return {}


def fetch(repository: str, files: Sequence[str]) -> Path:
    """The first of these files that a hub's repository has, from this machine's cache or the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    problem: Exception | None = None
    for file in files:
        try:
            return Path(hf_hub_download(repository, file))
        except EntryNotFoundError as error:
            problem = problem or error
        except (OSError, ValueError, HfHubHTTPError) as error:
            problem = error
    raise UserError(
        f"None of {', '.join(files)} of {repository} is in this machine's cache, nor could it be fetched from the "
        f"hub ({type(problem).__name__}). Fetch the file where there is a network and give it as ARCH@PATH."
    )
