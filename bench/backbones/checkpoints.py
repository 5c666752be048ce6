"""Read a weights file into tensors by key, without executing anything in it.

Supported are safetensors, what torch saved (`torch.load(weights_only=True)`, with any suffix), and numpy's
archives (JAX's ViT). Training scripts save settings and histories next to their tensors: known inert types are replaced
by empty objects (`INERT`), anything else is refused.
"""

import json
import math
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".ckpt", ".tar")

# Where training scripts keep weights, best first: the average over training is what is evaluated (DINO's
# and iBOT's teacher; timm's, DeiT's and mmengine's EMA).
PARTS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "teacher", "state_dict", "model", "student"),
    *("target_encoder", "encoder", "module", "params", "net", "weights"),
)

# Types of settings, histories and numbers next to the tensors; read as empty objects.
INERT = (
    *("argparse.Namespace", "yacs.config.CfgNode", "collections.defaultdict", "pathlib.Path"),
    *("pathlib.PosixPath", "typing.Any", "builtins.dict", "builtins.list", "builtins.int"),
    *("builtins.float", "_codecs.encode", "omegaconf.dictconfig.DictConfig"),
    *("omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
    *("mmengine.config.config.ConfigDict", "numpy.core.multiarray.scalar"),
    *("numpy._core.multiarray.scalar", "numpy.dtype", "numpy.ndarray"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.dtypes.Float64DType", "numpy.dtypes.Int64DType"),
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


class _Inert(dict[Any, Any]):
    """Replaces a setting of a training script; accepts any call and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, _: object) -> None: ...

    def append(self, _: object) -> None: ...

    def extend(self, _: object) -> None: ...


class _History(_Inert):
    """Replaces mmengine's HistoryBuffer."""


def _attribute(owner: object, name: str) -> object:
    """Replaces `getattr`, with which HistoryBuffer refers to its own methods; refuses any other owner."""
    import pickle

    if owner is not _History:
        raise pickle.UnpicklingError(f"GLOBAL getattr of {owner}.{name}")
    return owner


def header(path: Path) -> dict[str, str]:
    """Return a safetensors file's own metadata ({} for other formats), without importing torch."""
    if path.suffix != ".safetensors":
        return {}
    try:
        return dict(_table(path)[0].get("__metadata__", {}))
    except (OSError, ValueError, struct.error) as error:
        raise _unreadable(path, error) from None


def read(path: Path, part: str | None = None) -> "tuple[dict[str, Tensor], str, tuple[str, ...]]":
    """Return a file's tensors by key, which of its sets of weights they are, and which sets it has.

    For tensors without a set, these are "" and ().

    Args:
        path: the file.
        part: the set to take of a file that holds several (`teacher`, `student`, `state_dict_ema`);
            None takes the first of `PARTS` that is there.

    Raises UserError if the file is truncated or unsafe, or contains no tensors in that set.
    """
    import pickle

    try:
        content = _content(path)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, error) from None
    except (
        *(OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError),
        *(struct.error, zipfile.BadZipFile),
    ) as error:
        raise (_unsafe if "TorchScript" in str(error) else _unreadable)(path, error) from None
    sets = _sets(content) if isinstance(content, Mapping) else {}
    if not sets:
        raise _no_tensors(path, content)
    if part is not None and part not in sets:
        raise unknown(f"set of weights in {path.name}", part, sets)
    name = part or next(iter(sets))
    return sets[name], name, tuple(filter(None, sets))


def _content(path: Path) -> object:
    import torch

    if path.suffix == ".safetensors":
        return dict(_safetensors(path))
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as archive:
            return {key: torch.from_numpy(archive[key]) for key in archive.files}
    inert: list[Any] = [(_Inert, name) for name in INERT]
    inert += [(_History, "mmengine.logging.history_buffer.HistoryBuffer")]
    inert += [(_attribute, "builtins.getattr"), (_attribute, "__builtin__.getattr")]
    with torch.serialization.safe_globals(inert):
        return torch.load(path, map_location="cpu", weights_only=True)


def _table(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's table of contents, and where its data begins."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError("its header is longer than the file")
        return json.loads(file.read(length)), 8 + length


def _safetensors(path: Path) -> Iterator[tuple[str, "Tensor"]]:
    """Read tensor by tensor into memory of its own.

    The library maps the file instead: its pages would count in addition to the model's copies, and replacing the file
    during a run would change the run's weights.
    """
    import safetensors
    import torch
    from safetensors.torch import _TYPES as TYPES

    try:
        safetensors.safe_open(path, framework="pt")  # its check of the whole layout
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None
    table, begin = _table(path)
    table.pop("__metadata__", None)
    with path.open("rb", buffering=0) as file:
        for key, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
            tensor = torch.empty(entry["shape"], dtype=TYPES[entry["dtype"]])
            if math.prod(entry["shape"]):
                file.seek(begin + entry["data_offsets"][0])
                file.readinto(tensor.reshape(-1).view(torch.uint8).numpy())
            yield key, tensor


def _no_tensors(path: Path, content: object) -> UserError:
    found = list(content)[:5] if isinstance(content, Mapping) else type(content).__name__
    return UserError(
        f"The weights file {path} holds no state dict of tensors but {found}. Expected are "
        f"tensors by key, bare or under one of {', '.join(PARTS)}."
    )


def _sets(content: Mapping[Any, Any]) -> dict[str, dict[str, "Tensor"]]:
    """The sets of weights in a file by name, best first; "" for tensors without a set."""
    from torch import Tensor

    def tensors(value: object) -> dict[str, Tensor]:
        if not isinstance(value, Mapping):
            return {}
        found = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
        inner = [v for k, v in value.items() if k in PARTS and isinstance(v, Mapping)]
        return found if len(found) > 1 or not inner else tensors(inner[0])

    named = {name: tensors(content[name]) for name in PARTS if name in content}
    named = {name: value for name, value in named.items() if value}
    return named or ({"": bare} if (bare := tensors(content)) else {})


def _unsafe(path: Path, error: Exception) -> UserError:
    """Name what the file would have called; torch's own message recommends loading it regardless."""
    called = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"it calls {called[1]}" if called else "it is a pickle of something else"
    if "TorchScript" in str(error):
        what = "it is a TorchScript program (as OpenAI's CLIP: model = torch.jit.load(...))"
    return UserError(
        f"The weights file {path} was refused and nothing in it was executed: it is not a plain file of tensors, "
        f"{what}. If you trust it, save its tensors alone on another machine: "
        f"safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    size = path.stat().st_size if path.is_file() else 0
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"The weights file {path} ({size:,} bytes) cannot be read: {reason}. It is "
        f"truncated or damaged, or not one of {', '.join(SUFFIXES)}; fetch it again and compare its size."
    )
