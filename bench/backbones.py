"""A backbone: an architecture of timm with its weights, from a name, a file, or a named entry.

arch                 a timm name: random initialisation ("scratch")
arch.tag             timm's published weights of that tag
arch@path            a weights file for that architecture
path.safetensors     an exported file, whose header names its architecture
name                 an entry of a file given with --include
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import checkpoints, formats, loading
from bench.errors import UserError, unknown
from bench.loading import LoadReport
from bench.provenance import file_sha256
from bench.results import digest

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """Architecture and weights under test.

    `mean` and `std` (RGB, of images in 0-1) replace timm's defaults for the architecture.
    """

    name: str
    arch: str
    method: str = "scratch"
    weights: Path | None = None
    sha256: str | None = None
    pretraining: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @property
    def weights8(self) -> str:
        """What tells two backbones of one name apart in a record's path."""
        if self.mean or self.std:
            return digest([self.sha256, self.mean, self.std])[:8]
        return self.sha256[:8] if self.sha256 else "scratch"


def architectures() -> frozenset[str]:
    """Every architecture that timm registers, read from its source: importing timm takes seconds."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None
    assert spec.origin is not None
    models = Path(spec.origin).parent / "models"
    register = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    return frozenset(
        name for file in models.glob("*.py") for name in register.findall(file.read_text("utf-8"))
    )


def resolve(spec: str, entries: Mapping[str, Backbone] | None = None) -> Backbone:
    """Turn what the user typed into a backbone with its weights hashed; raises UserError."""
    entries = entries or {}
    if spec in entries:
        return _hashed(entries[spec])
    if "@" in spec:
        arch, _, file = spec.partition("@")
        _check_arch(arch, entries)
        return _from_file(arch, _locate(file))
    if spec.endswith(checkpoints.SUFFIXES):
        path = _locate(spec)
        arch = checkpoints.header(path).get("arch", "")
        if arch not in architectures():
            raise UserError(
                f"The weights file {path} does not name its timm architecture in its header"
                f"{f' (it says {arch!r})' if arch else ''}. Give it as arch@{spec}."
            )
        return _from_file(arch, path)
    arch, _, tag = spec.partition(".")
    _check_arch(arch, entries)
    return _published(arch, tag) if tag else Backbone(name=arch, arch=arch)


def build(
    arch: str,
    *,
    weights: Path | str | None = None,
    part: str | None = None,
    allow_partial: Sequence[str] = (),
    **timm_kwargs: Any,
) -> tuple["nn.Module", LoadReport]:
    """Create a timm model and load its weights; `timm_kwargs` go to `timm.create_model`.

    Without weights the initialisation follows torch's global seed, which is the caller's to set.

    Args:
        arch: timm's name, without tag.
        weights: a file in any format of `bench.formats`; None is scratch.
        part: of a file that holds several sets of weights (`teacher`, `student`): which.
        allow_partial: patterns of the keys that need not fit; see `bench.loading.load`.

    Raises UserError when the weights do not fit.
    """
    import timm

    if weights is None:
        return timm.create_model(arch, pretrained=False, **timm_kwargs), LoadReport()
    path = Path(weights)
    encoder = _encoder(arch, path, part)
    return loading.load(arch, encoder, path.name, allow_partial=allow_partial, **timm_kwargs)


def _encoder(arch: str, path: Path, part: str | None) -> formats.Encoder:
    """The encoder in a file; raises UserError where its keys are of no known format, nor of `arch`."""
    state, _ = checkpoints.read(path, part)
    encoder = formats.recognise(state, lambda inside: _shares_names(arch, inside))
    if encoder is None:
        raise UserError(
            f"The weights file {path} is of no known format, and its keys ({', '.join(list(state)[:3])}, ...) are "
            f"not those of {arch}. Give the architecture that it was made with, as ARCH@{path.name}."
        )
    return encoder


def _shares_names(arch: str, inside: Collection[str]) -> bool:
    """Whether these are timm's own names, or mostly so, of that architecture."""
    import timm
    import torch

    with torch.device("meta"):
        own = timm.create_model(arch).state_dict().keys()
    return 2 * sum(key in own for key in inside) > len(own)


def normalisation(backbone: Backbone) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and std (RGB, of images in 0-1) that the weights were made with.

    The backbone's own, else those of timm's published weights of its name, else its architecture's.
    """
    import timm

    published = timm.models.is_model_pretrained(backbone.name)
    config = timm.get_pretrained_cfg(backbone.name if published else backbone.arch)
    return backbone.mean or config.mean, backbone.std or config.std


def _check_arch(arch: str, entries: Mapping[str, Backbone]) -> None:
    if arch not in (names := architectures()):
        raise unknown("backbone", arch, names | set(entries))


def _locate(path: str) -> Path:
    given = Path(path).expanduser()
    places = [given, Path(os.environ.get("BENCH_WEIGHTS", ".")) / given]
    for place in places:
        if place.is_file():
            return place
    near = sorted(p.name for p in given.parent.glob("*") if p.suffix in checkpoints.SUFFIXES)
    raise UserError(
        f"There is no weights file {given}. In its folder: {', '.join(near[:5]) or 'no weights'}. Give the "
        f"path of a {' or '.join(checkpoints.SUFFIXES)} file, or set BENCH_WEIGHTS to its folder."
    )


def _from_file(arch: str, path: Path) -> Backbone:
    header = checkpoints.header(path)
    method = header.get("method", "pretrained")
    backbone = Backbone(
        name=path.stem, arch=arch, method=method, weights=path.resolve(), pretraining=header
    )
    return _hashed(backbone)


def _hashed(backbone: Backbone) -> Backbone:
    """Fill in the hash of the weights; raises UserError if the entry states another."""
    if backbone.weights is None:
        return backbone
    path = _locate(str(backbone.weights))
    sha256 = file_sha256(path)
    if backbone.sha256 not in (None, sha256):
        raise UserError(
            f"The weights of {backbone.name}, {path}, have the SHA-256 {sha256}, and its entry says "
            f"{backbone.sha256}: the file was changed or is another one. Fetch it again or mend the entry."
        )
    return dataclasses.replace(backbone, weights=path.resolve(), sha256=sha256)


def _published(arch: str, tag: str) -> Backbone:
    """Weights that timm publishes, from the hub's cache or, on the user's word, the hub."""
    import timm
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = f"{arch}.{tag}"
    if name not in (tags := timm.list_models(f"{arch}.*", pretrained=True)):
        raise unknown("backbone", name, [arch, *tags])
    hub_id = timm.get_pretrained_cfg(name).hf_hub_id
    try:
        path = Path(hf_hub_download(hub_id, "model.safetensors"))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"The weights of {name} are neither in this machine's cache nor could they be fetched from "
            f"{hub_id} ({type(error).__name__}). Fetch the file where there is a network and give it as {arch}@PATH."
        ) from None
    return dataclasses.replace(_from_file(arch, path), name=name)
