"""A weights file into a timm model: whole and right, or a refusal that says what does not fit.

Files are read without executing anything: safetensors, or `torch.load(weights_only=True)`.
"""

import dataclasses
import json
import re
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model")  # where a training script keeps its weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every key. Only the classifier's may be missing or unexpected."""

    matched: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resampled: tuple[str, ...] = ()


def header(path: Path) -> dict[str, str]:
    """Return a safetensors file's own metadata ({} for other formats), without importing torch."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            return dict(json.loads(file.read(length)).get("__metadata__", {}))
    except (OSError, ValueError, struct.error) as error:
        raise _unreadable(path, error) from None


def read(path: Path) -> dict[str, "Tensor"]:
    """Return a file's tensors by key; raises UserError for a truncated or unsafe file."""
    import pickle

    import safetensors
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, error) from None
    except (OSError, EOFError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from None
    return _tensors(content, path)


def _tensors(content: object, path: Path) -> dict[str, "Tensor"]:
    from torch import Tensor

    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        found = list(content)[:5] if isinstance(content, Mapping) else type(content).__name__
        raise UserError(
            f"The weights file {path} holds no state dict of tensors but {found}. Expected are "
            f"tensors by timm key, bare or under {' or '.join(map(repr, WRAPPERS))}."
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _unsafe(path: Path, error: Exception) -> UserError:
    """Name what the file would have called; torch's own words advise to load it all the same."""
    called = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"it calls {called[1]}" if called else "it is a pickle of something else"
    return UserError(
        f"The weights file {path} was refused and nothing in it was executed: it is no plain file of tensors, {what}. "
        f"Where you trust it, save its tensors alone on another machine: "
        f"safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    size = path.stat().st_size if path.is_file() else 0
    return UserError(
        f"The weights file {path} ({size:,} bytes) cannot be read: {str(error).splitlines()[0]}. It is "
        f"truncated or damaged, or not one of {', '.join(SUFFIXES)}; fetch it again and compare its size."
    )


def load_into(model: "nn.Module", path: Path) -> LoadReport:
    """Load a file into a timm model, in place; raises UserError unless every backbone key fits.

    Position embeddings and bias tables of another input size are resampled by timm's own filter of
    the architecture. Keys of the classifier (`head`, `fc`, ...) may be missing or unexpected.
    """
    state = read(path)
    own = model.state_dict()
    misfits = _misfits(own, state)
    if misfits and (resample := _filter(model)):
        state = resample(state, model)
    resampled = tuple(k for k in misfits if k in state and state[k].shape == own[k].shape)
    misfits = _misfits(own, state)
    classifier = _classifier(model)
    missing = tuple(k for k in own if k not in state and not k.endswith("num_batches_tracked"))
    unexpected = tuple(k for k in state if k not in own)
    wrong = {
        "missing": [k for k in missing if not k.startswith(classifier)],
        "unexpected": [k for k in unexpected if not k.startswith(classifier)],
        "of another shape": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}" for k in misfits
        ],
    }
    if any(wrong.values()):
        raise _unfit(model, path, wrong, len(own))
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    matched = sum(k in own for k in state)
    return LoadReport(matched=matched, missing=missing, unexpected=unexpected, resampled=resampled)


def _misfits(own: Mapping[str, "Tensor"], state: Mapping[str, "Tensor"]) -> list[str]:
    return [k for k, v in own.items() if k in state and state[k].shape != v.shape]


def _filter(model: "nn.Module") -> Any:
    return getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)


def _classifier(model: "nn.Module") -> tuple[str, ...]:
    """Prefixes of the classifier, which a backbone does not need: timm names it for each model."""
    names = model.pretrained_cfg["classifier"]
    names = (names,) if isinstance(names, str) else names
    return tuple({name.split(".")[0] + "." for name in names})


def _unfit(model: "nn.Module", path: Path, wrong: Mapping[str, list[str]], total: int) -> UserError:
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in wrong.items()
        if keys
    ]
    arch = model.pretrained_cfg["architecture"]
    return UserError(
        f"The weights file {path} does not fit {arch}: of its {total} keys, {'; '.join(parts)}. "
        f"Nothing was run. Give the architecture that the file was made with, as arch@{path.name}."
    )
