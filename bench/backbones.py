"""A backbone: an architecture of timm with its weights, from a name, a file, or a named entry.

arch                 a timm name: random initialisation ("scratch")
arch.tag             timm's published weights of that tag
path                 a weights file whose header or shapes tell its architecture
arch@path            a weights file for that architecture
arch.tag@path        the same, made with images normalised as for that tag
hf-hub:owner/name    a repository of the Hugging Face hub
name                 an entry of a file given with --include

`path#part` takes one of several sets of weights in a file (`#student`).

    python -m bench.backbones inspect FILE
"""

import dataclasses
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import checkpoints, formats, hub, loading
from bench.adaptation import trained_windows
from bench.architectures import architectures
from bench.errors import UserError, unknown
from bench.loading import LoadReport
from bench.provenance import file_sha256
from bench.results import weights8

if TYPE_CHECKING:
    from torch import nn

RGB = formats.RGB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """Architecture and weights under test.

    Attributes:
        name, arch: the user's name for it, timm's for its architecture.
        method: how it was pretrained, as far as the file tells; "baseline" is of no backbone at all.
        weights, part, sha256: the file, which of its sets of weights (None: its best), and its hash.
        pretraining: what the file's header says.
        mean, std: RGB, of images in 0-1; they go before what the file or timm says.
        tag: timm's tag whose mean and std the weights were made with.
        allow_partial: patterns of keys that need not fit.
    """

    name: str
    arch: str
    method: str = "scratch"
    weights: Path | None = None
    part: str | None = None
    sha256: str | None = None
    pretraining: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mean: RGB | None = None
    std: RGB | None = None
    tag: str = ""
    allow_partial: tuple[str, ...] = ()

    @property
    def weights8(self) -> str:
        """What tells two backbones of one name apart in a record's path."""
        return weights8({**vars(self), "weights_sha256": self.sha256})


def resolve(spec: str, entries: Mapping[str, Backbone] | None = None) -> Backbone:
    """Turn what the user typed into a backbone with its weights hashed; raises UserError."""
    entries = entries or {}
    if spec in entries:
        return _hashed(entries[spec])
    if spec.startswith("hf-hub:"):
        return _from_hub(spec)
    name, at, file = spec.partition("@")
    if Path(spec.partition("#")[0]).is_file():  # in a run's folder, whose name has an @
        name, at, file = spec, "", ""
    path, _, part = (file or spec).partition("#")
    if at:
        arch, _, tag = name.partition(".")
        _check_arch(arch, entries)
        return _from_file(arch, _locate(path), part, _known_tag(arch, tag))
    if path.endswith(checkpoints.SUFFIXES):
        return _from_file(_arch_of(_locate(path), part), _locate(path), part)
    arch, _, tag = spec.partition(".")
    _check_arch(arch, entries)
    return _published(arch, tag) if tag else Backbone(name=arch, arch=arch)


def _arch_of(path: Path, part: str) -> str:
    """The architecture that a file's header names, or else its shapes; raises UserError."""
    stated = checkpoints.header(path).get("arch", "")
    if stated in architectures():
        return stated
    from bench.inspection import inspect

    found = inspect(path, part or None)
    if len(found.archs) == 1:
        return found.archs[0]
    many = (
        f"it may be {', '.join(found.archs[:6])}"
        if found.archs
        else "its shapes are no timm model's"
    )
    raise UserError(
        f"The weights file {path} does not tell its architecture: "
        f"{f'its header says {stated!r}, and ' if stated else ''}{many}. Give it as ARCH@{path}."
    )


def build(
    arch: str,
    *,
    weights: Path | str | None = None,
    part: str | None = None,
    allow_partial: Sequence[str] = (),
    drop_blocks: int = 0,
    **timm_kwargs: Any,
) -> tuple["nn.Module", LoadReport]:
    """Create a timm model and load its weights; `timm_kwargs` go to `timm.create_model`.

    Without weights the initialisation follows torch's global seed, which is the caller's to set.

    Args:
        arch: timm's name, without tag.
        weights: a file in any format of `bench.formats`; None is scratch.
        part: of a file that holds several sets of weights (`teacher`, `student`): which.
        allow_partial: patterns of the keys that need not fit; see `bench.loading.load`.
        drop_blocks: how many blocks are removed from the end, once the weights are loaded.

    Raises UserError when the weights do not fit, or the blocks cannot be dropped.
    """
    import timm

    from bench import layer_drop
    from bench.shifted_windows import pad_before_shifting

    if weights is None:
        options = {**trained_windows(arch), **timm_kwargs}
        model, report = timm.create_model(arch, pretrained=False, **options), LoadReport()
    else:
        path = Path(weights)
        encoder = _encoder(arch, path, part)
        model, report = loading.load(
            arch, encoder, path.name, allow_partial=allow_partial, **timm_kwargs
        )
    pad_before_shifting(model)
    if drop_blocks:
        layer_drop.drop_blocks(model, arch, drop_blocks)
    return model, report


def _encoder(arch: str, path: Path, part: str | None) -> formats.Encoder:
    """The encoder in a file; raises UserError where its keys are of no known format, nor of `arch`."""
    state, *_ = checkpoints.read(path, part)
    encoder = formats.recognise(state, lambda inside: _shares_names(arch, inside))
    if encoder is None:
        raise UserError(
            f"The weights file {path} is of no known format, and its keys ({', '.join(list(state)[:3])}, ...) are "
            f"not those of {arch}. Give the architecture that it was made with, as ARCH@{path.name}."
        )
    return dataclasses.replace(encoder, grid=_grid(path, encoder))


def _grid(path: Path, encoder: formats.Encoder) -> tuple[int, int] | None:
    """The grid of patches of the image size that a file's header states: an export's need not be square."""
    stated = checkpoints.header(path).get("img_size")
    weight = encoder.state.get("patch_embed.proj.weight")
    if stated is None or weight is None or weight.ndim != 4:
        return None
    height, width = json.loads(stated)
    return height // weight.shape[2], width // weight.shape[3]


def _shares_names(arch: str, inside: Collection[str]) -> bool:
    """Whether these are timm's own names, or mostly so, of that architecture."""
    import timm
    import torch

    with torch.device("meta"):
        own = timm.create_model(arch).state_dict().keys()
    return 2 * sum(key in own for key in inside) > min(len(own), len(inside))


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


def _known_tag(arch: str, tag: str) -> str:
    """Check a tag; "" is none."""
    if tag:
        import timm

        names = timm.list_models(f"{arch}.*", pretrained=True)
        if f"{arch}.{tag}" not in names:
            raise unknown("backbone", f"{arch}.{tag}", [arch, *names])
    return tag


def _from_file(arch: str, path: Path, part: str = "", tag: str = "") -> Backbone:
    from bench.inspection import inspect

    header = checkpoints.header(path)
    name = header.get("name") or path.stem
    return _hashed(
        Backbone(
            name=f"{name}#{part}" if part else name,
            arch=arch,
            method=header.get("method") or inspect(path, part or None).method or "pretrained",
            weights=path.resolve(),
            part=part or None,
            pretraining=header,
            tag=tag,
        )
    )


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

    name = f"{arch}.{tag}"
    _known_tag(arch, tag)
    path = hub.fetch(timm.get_pretrained_cfg(name).hf_hub_id, hub.FILES[:1])
    return dataclasses.replace(_from_file(arch, path, tag=tag), name=name)


def _from_hub(spec: str) -> Backbone:
    """A repository of the hub: timm's own say their architecture, transformers' how images are normalised."""
    repository = spec.removeprefix("hf-hub:")
    path = hub.fetch(repository, hub.FILES)
    config = hub.settings(repository, "config.json")
    images = hub.settings(repository, "preprocessor_config.json")
    arch = str(config.get("architecture", "")).partition(".")[0]
    found = _from_file(arch if arch in architectures() else _arch_of(path, ""), path)
    timm_config = config.get("pretrained_cfg", {})
    mean = images.get("image_mean") or timm_config.get("mean")
    std = images.get("image_std") or timm_config.get("std")
    return dataclasses.replace(
        found,
        name=repository.rpartition("/")[2],
        mean=mean and tuple(mean),
        std=std and tuple(std),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """`inspect FILE...`: print what each weights file is; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) < 2 or words[0] != "inspect":
        sys.stderr.write("usage: python -m bench.backbones inspect FILE [FILE ...]\n")
        return 2
    from bench.inspection import inspect

    try:
        for word in words[1:]:
            path, _, part = word.partition("#")
            sys.stdout.write(f"{inspect(_locate(path), part or None)}\n")
    except UserError as error:
        sys.stderr.write(f"bench.backbones: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
