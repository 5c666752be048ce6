"""Resolve what the user typed to a Backbone: a timm architecture with its weights.

arch                 a timm name: random initialisation ("scratch")
arch.tag             timm's published weights of that tag
path                 a weights file whose header or shapes identify its architecture
arch@path            a weights file for that architecture
arch.tag@path        the same, trained with images normalised as for that tag
hf-hub:owner/name    a repository of the Hugging Face hub
name                 an entry of a file given with --include

`path#part` selects one of several sets of weights in a file (`#student`). Files of the Hugging Face hub come from this
machine's cache, or are downloaded if there is a network.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.backbones import checkpoints
from bench.backbones.architectures import architectures
from bench.backbones.backbone import Backbone
from bench.errors import UserError, unknown
from bench.files import file_sha256

# Names of weights files in a hub repository, in order of preference.
FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")


def resolve(spec: str, entries: Mapping[str, Backbone] | None = None) -> Backbone:
    """Return the backbone that `spec` names, with the hash of its weights; raises UserError."""
    entries = entries or {}
    if spec in entries:
        return _hashed(entries[spec])
    if spec.startswith("hf-hub:"):
        return _from_hub(spec)
    name, at, file = spec.partition("@")
    if Path(spec.partition("#")[0]).is_file():  # a path may contain an @, as the names of runs' folders do
        name, at, file = spec, "", ""
    path, _, part = (file or spec).partition("#")
    if at:
        arch, _, tag = name.partition(".")
        _check_arch(arch, entries)
        return _from_file(arch, locate(path), part, _known_tag(arch, tag))
    if path.endswith(checkpoints.SUFFIXES):
        return _from_file(_arch_of(locate(path), part), locate(path), part)
    arch, _, tag = spec.partition(".")
    _check_arch(arch, entries)
    return _published(arch, tag) if tag else Backbone(name=arch, arch=arch)


def _arch_of(path: Path, part: str) -> str:
    """Return the architecture that a file's header names, else the only one with its shapes; raises UserError."""
    stated = checkpoints.header(path).get("arch", "")
    if stated in architectures():
        return stated
    from bench.backbones.inspect import inspect

    found = inspect(path, part or None)
    if len(found.archs) == 1:
        return found.archs[0]
    many = f"it may be {', '.join(found.archs[:6])}" if found.archs else "its shapes match no timm model"
    raise UserError(
        f"The architecture of the weights file {path} is unknown: "
        f"{f'its header names {stated!r}, which is not a timm architecture, and ' if stated else ''}{many}. "
        f"Give it as ARCH@{path}."
    )


def _check_arch(arch: str, entries: Mapping[str, Backbone]) -> None:
    if arch not in (names := architectures()):
        raise unknown("backbone", arch, names | set(entries))


def locate(path: str) -> Path:
    """Find a weights file in the current folder or in $BENCH_WEIGHTS; raises UserError, naming files nearby."""
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
    """Return the tag if timm publishes weights of it ("" means no tag); raises UserError otherwise."""
    if tag:
        import timm

        names = timm.list_models(f"{arch}.*", pretrained=True)
        if f"{arch}.{tag}" not in names:
            raise unknown("backbone", f"{arch}.{tag}", [arch, *names])
    return tag


def _from_file(arch: str, path: Path, part: str = "", tag: str = "") -> Backbone:
    from bench.backbones.inspect import inspect

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
    """Add the hash of the weights; raises UserError if the entry states a different one."""
    if backbone.weights is None:
        return backbone
    path = locate(str(backbone.weights))
    sha256 = file_sha256(path)
    if backbone.sha256 not in (None, sha256):
        raise UserError(
            f"The weights of {backbone.name}, {path}, have the SHA-256 {sha256}, but its entry "
            f"states {backbone.sha256}: the file was changed or is a different one. Download it again or fix the entry."
        )
    return dataclasses.replace(backbone, weights=path.resolve(), sha256=sha256)


def _published(arch: str, tag: str) -> Backbone:
    """Return a backbone with weights that timm publishes, from the hub or its cache."""
    import timm

    name = f"{arch}.{tag}"
    _known_tag(arch, tag)
    path = fetch(timm.get_pretrained_cfg(name).hf_hub_id, FILES[:1])
    return dataclasses.replace(_from_file(arch, path, tag=tag), name=name)


def _from_hub(spec: str) -> Backbone:
    """Return the backbone of a hub repository; timm's state the architecture, transformers' the normalisation."""
    repository = spec.removeprefix("hf-hub:")
    path = fetch(repository, FILES)
    config = settings(repository, "config.json")
    images = settings(repository, "preprocessor_config.json")
    arch = str(config.get("architecture", "")).partition(".")[0]
    found = _from_file(arch if arch in architectures() else _arch_of(path, ""), path)
    timm_config = config.get("pretrained_cfg", {})
    mean = images.get("image_mean") or timm_config.get("mean")
    std = images.get("image_std") or timm_config.get("std")
    return dataclasses.replace(
        found, name=repository.rpartition("/")[2], mean=mean and tuple(mean), std=std and tuple(std)
    )


def settings(repository: str, file: str) -> dict[str, Any]:
    """Return a JSON file of a hub repository; {} if it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return dict(json.loads(Path(hf_hub_download(repository, file)).read_text("utf-8")))
    except (EntryNotFoundError, OSError):  # offline, a file that does not exist is only missing from the cache
        return {}


def fetch(repository: str, files: Sequence[str]) -> Path:
    """Return the first of these files that a hub repository has, from this machine's cache or the hub."""
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
        f"None of {', '.join(files)} of {repository} is in this machine's cache, nor could it be downloaded from "
        f"the hub ({type(problem).__name__}). Download the file where there is a network and give it as ARCH@PATH."
    )
