"""Load an encoder's weights into a timm model completely, or refuse and name what does not fit."""

import contextlib
import dataclasses
import fnmatch
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.backbones.adapt import adapt, trained_windows
from bench.backbones.backbone import LoadReport
from bench.backbones.formats import DERIVED, TIMM, Encoder, belongs_elsewhere
from bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


def load(
    arch: str, encoder: Encoder, name: str, *, allow_partial: Sequence[str] = (), **timm_kwargs: Any
) -> tuple["nn.Module", LoadReport]:
    """Create a timm model with an encoder's weights.

    Args:
        arch: timm's name, without tag.
        encoder: the weights, by timm's names (`bench.backbones.formats.recognise`).
        name: the file's, for messages.
        allow_partial: patterns (`blocks.11.*`) of keys that may be missing, unexpected or of another
            shape; missing ones keep their random initialisation.
        timm_kwargs: for `timm.create_model`; they override the options that the format needs.

    Raises UserError unless the keys of the encoder and of the model match one to one.
    """
    options = {**trained_windows(arch), **encoder.options, **timm_kwargs}
    model = _draft(arch, encoder, options)
    fit = _fit(model, encoder, allow_partial)
    if other := _norm_elsewhere(fit):
        options["global_pool"] = other
        model = _draft(arch, encoder, options)
        fit = _fit(model, encoder, allow_partial)
    if any(fit.wrong.values()):
        raise _unfit(arch, encoder, name, fit)
    if fit.report.missing:  # parameters that the file does not fill need their initialisation
        model = _create(arch, encoder, options)
    own = model.state_dict()
    state = {k: v.to(own[k].dtype).contiguous() for k, v in fit.state.items()}
    model.load_state_dict(state, strict=False, assign=True)
    return model, fit.report


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fit:
    """The tensors that a model takes from a file, the report, and the keys that do not fit."""

    state: Mapping[str, "Tensor"]
    report: LoadReport
    wrong: Mapping[str, Sequence[str]]
    total: int


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Create parameters on the meta device, since the file replaces them; buffers are real.

    Initialisers are skipped: even on meta tensors they take a second for ViT-L.
    """
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode

    class NothingToFill(TorchFunctionMode):  # type: ignore[misc]  # torch is not followed
        def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name, first = func.__name__, args[0] if args else kwargs.get("tensor")
            fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
            if fills and isinstance(first, Tensor) and first.is_meta:
                return first
            return func(*args, **kwargs)

    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta
    try:
        with NothingToFill():
            yield
    finally:
        nn.Module.register_parameter = register


def _draft(arch: str, encoder: Encoder, options: Mapping[str, Any]) -> "nn.Module":
    """Create a model to be filled: its buffers are correct, its parameters may be on the meta device.

    Swin creates masks and coordinates on the device of its parameters, so it is created normally.
    """
    with contextlib.suppress(NotImplementedError), _parameters_on_meta():
        model = _create(arch, encoder, options)
        if not any(buffer.is_meta for buffer in model.buffers()):
            return model
    return _create(arch, encoder, options)


def _create(arch: str, encoder: Encoder, options: Mapping[str, Any]) -> "nn.Module":
    import timm

    try:
        return timm.create_model(arch, pretrained=False, **options)
    except TypeError as error:
        if not encoder.options or not any(option in str(error) for option in encoder.options):
            raise
        wanted = ", ".join(f"{name}={value}" for name, value in encoder.options.items())
        raise UserError(
            f"These weights ({encoder.format}) need an architecture with {wanted}, which {arch} does not have. "
            f"Nothing was run. {f'Give them as {encoder.arch}@FILE.' if encoder.arch else ''}"
        ) from None


def _fit(model: "nn.Module", encoder: Encoder, allowed: Sequence[str]) -> _Fit:
    """Match the file's tensors with the model's; old names of timm's go through timm's own filter."""
    fit = _compare(model, encoder, encoder.state, allowed)
    resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if not any(fit.wrong.values()) or encoder.format != TIMM.name or resample is None:
        return fit
    filtered = _compare(model, encoder, resample(dict(encoder.state), model), allowed)
    return fit if any(filtered.wrong.values()) else filtered


def _compare(model: "nn.Module", encoder: Encoder, state: Mapping[str, "Tensor"], allowed: Sequence[str]) -> _Fit:
    """Match tensors with a model's; `state` is the encoder's, or the output of timm's filter."""
    own, classifier = model.state_dict(), _classifier(model)
    adapted = {k: adapt(k, v, own[k], model, encoder.grid) for k, v in state.items() if k in own}
    fits = {k: v for k, v in adapted.items() if v.shape == own[k].shape}
    misfits = [k for k in adapted if k not in fits]
    missing = [k for k in own if k not in fits and not re.match(DERIVED, k)]
    over = _over(own, encoder, state)
    heads = {k for k in over if belongs_elsewhere(k) or _is(k, classifier)}
    unexpected = [over[k] for k in over if k not in heads]
    free = (*classifier, *allowed)
    owners = {_owner(key) for key in (*state, *encoder.state) if key in own}
    needed = [k for k in missing if k not in misfits and not _is(k, allowed)]
    report = LoadReport(
        format=encoder.format,
        matched=len(fits),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        leftover=(*encoder.leftover, *(over[k] for k in over if k in heads)),
        resampled=_resampled(state, fits),
        cast=_casts(fits, own),
    )
    wrong = {
        "missing": [k for k in needed if not _is_classifiers(k, classifier, owners)],
        "unexpected": [k for k in unexpected if not _is(k, allowed)],
        "of another shape": [
            f"{encoder.sources.get(k, k)} {_shape(state[k])} instead of {_shape(own[k])}"
            for k in misfits
            if not _is(k, free)
        ],
    }
    return _Fit(state=fits, report=report, wrong=wrong, total=len(own))


def _is_classifiers(key: str, classifier: Collection[str], owners: Collection[str]) -> bool:
    """Whether a key is the classifier's, or of a norm before it of which the file has no key (SAM 2)."""
    siblings = [f"{pattern.split('.')[0]}.*" for pattern in classifier]
    return _is(key, classifier) or (_is(key, siblings) and _owner(key) not in owners)


def _resampled(state: Mapping[str, "Tensor"], fits: Mapping[str, "Tensor"]) -> tuple[str, ...]:
    """List adapted tensors, found by identity: a grid of other sides can have the same shape."""
    changed = [k for k, v in fits.items() if v is not state[k]]
    return tuple(f"{k} {_shape(state[k])} -> {_shape(fits[k])}" for k in changed)


def _over(own: Collection[str], encoder: Encoder, state: Mapping[str, "Tensor"]) -> dict[str, str]:
    """Return the tensors that the model does not take: timm's key -> the file's key."""
    # Tensors that timm's filter dropped count too.
    taken = {id(v) for v in state.values()}
    dropped = [k for k, v in encoder.state.items() if k not in state and id(v) not in taken]
    over = [*(k for k in state if k not in own), *dropped]
    return {k: encoder.sources.get(k, k) for k in over} | {k: k for k in encoder.outside}


def _owner(key: str) -> str:
    """Return the module that a key belongs to."""
    return key.rpartition(".")[0]


def _casts(state: Mapping[str, "Tensor"], own: Mapping[str, "Tensor"]) -> dict[str, int]:
    kinds = [str(v.dtype).removeprefix("torch.") for k, v in state.items() if v.dtype != own[k].dtype]
    return dict(Counter(kinds))


def _shape(tensor: "Tensor") -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _is(key: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _classifier(model: "nn.Module") -> tuple[str, ...]:
    """Return patterns of the classifier's keys, which a backbone does not need; timm names it for each model."""
    names = model.pretrained_cfg["classifier"]
    names = (names,) if isinstance(names, str) else names or ()
    return tuple(f"{name}.*" for name in names)


def _norm_elsewhere(fit: _Fit) -> str:
    """Return the pooling whose norm the file has, if the model was created with the other one; else "".

    A ViT that averages its tokens normalises their mean (`fc_norm`), one that reads its class token
    normalises every token (`norm`).
    """
    missing, unexpected = fit.wrong["missing"], fit.wrong["unexpected"]
    if any(k.endswith("fc_norm.weight") for k in unexpected) and "norm.weight" in missing:
        return "avg"
    if any(re.search(r"(^|\.)norm\.weight$", k) for k in unexpected) and "fc_norm.weight" in missing:
        return "token"
    return ""


def _unfit(arch: str, encoder: Encoder, name: str, fit: _Fit) -> UserError:
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in fit.wrong.items()
        if keys
    ]
    hint = f"The file looks like {encoder.arch}. " if encoder.arch not in (None, arch) else ""
    return UserError(
        f"The weights file {name} ({encoder.format}) does not fit {arch}: of its {fit.total} keys, {'; '.join(parts)}. "
        f"Nothing was run. {hint}Give the architecture of the file, as ARCH@{name}, or allow keys "
        f"that do not fit with --allow-partial PATTERN."
    )
