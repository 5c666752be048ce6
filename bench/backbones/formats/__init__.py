"""The formats of published checkpoints: what each calls an encoder's weights, as a table of entries.

A format is recognised from the names and shapes of its tensors alone. Its entry maps them to timm's names, lists those
of the pretraining, and adds what names do not contain: the architecture, its options that the weights need, and the
normalisation of the training images.
"""

import dataclasses
import importlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

RGB = tuple[float, float, float]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

MODULES = (*("jax", "clip", "huggingface", "openmmlab", "torchvision", "beit", "swin", "convolutional"), "vit")

# Wrappers around an encoder, preferred ones first: if a file has two, the first is the one its authors evaluate.
PREFIXES = (
    *("module.", "_orig_mod.", "model.", "teacher.backbone.", "teacher.", "target_encoder."),
    *("base_encoder.", "encoder_q.", "backbone.", "trunk.", "vision_model.", "visual."),
    *("vision_tower.", "vit.", "deit.", "beit.", "dinov2.", "dinov2_with_registers.", "swin."),
    *("swinv2.", "resnet.", "convnext.", "convnextv2.", "student.backbone.", "student."),
    *("image_encoder.", "vision_encoder.", "encoder.", "net.", "network."),
)

# Keys of a pretraining or task, in any format; applied only to keys that the model does not have.
HEADS = (
    r"(decoder|decode_head|auxiliary_head|decoder_\w+|neck|head|heads|fc|classifier|cls_head)\.",
    r"(\w+_classifier|visual_projection|visual\.(head|proj)|input_resolution|context_length|vocab_size)($|\.)",
    r"(rpn_head|roi_head|bbox_head|mask_head|keypoint_head|projector|projection_head|prototypes)\.",
    r"(predictor|projection|pooler|lm_head|head_dist|pre_logits|data_preprocessor|criterion|loss)\.",
    r"(momentum_encoder|encoder_k|student|teacher|ema|momentum|ema_model|model_ema|module_ema)\.",
    r"(\w*_head|\w*_decoder|logit_scale|logit_bias|queue|queue_ptr|center|decoder_pos_embed|mask_token)($|\.)",
    r"(transformer|token_embedding|ln_final|text_model|text_projection|positional_embedding|text)(\.|$)",
)

# Buffers that a model computes, which old files contain nevertheless.
DERIVED = r"(.*\.)?(relative_position_index|relative_coords_table|attn_mask|num_batches_tracked|k_bias)$"


def belongs_elsewhere(key: str) -> bool:
    """Whether a key that the model does not have belongs to a head or decoder, or is a computed buffer."""
    bare = re.sub(r"^(module\.|_orig_mod\.|model\.)+", "", key)
    return any(re.match(rule, bare) for rule in (*HEADS, DERIVED))


def unchanged(state: "State") -> "State":
    """Return the tensors unchanged."""
    return state


def nothing(_: "State") -> Mapping[str, Any]:
    """Return no options."""
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How one project names and stores an encoder.

    Attributes:
        name: for people.
        method: of pretraining, as records have it (`mae`, `simmim`, `dino`, ...); None if several share the
            format.
        marks: expressions; each must match the start of some encoder key, without wrappers.
        unlike: expressions; none may match.
        around: expressions; each must match the start of some key of the whole file, with wrappers.
        holds: a condition on the encoder's values, before renaming, where names do not decide.
        leftover: expressions of keys that no model has: computed buffers, tokens of the pretraining only.
        rename: (expression, replacement), applied in this order to each key of the encoder.
        convert: changes beyond renaming, on the renamed state. It leaves what it cannot convert (a missing part, an
            unexpected shape) unchanged, so the load report names it.
        arch: timm's name, from the converted state; None if shapes do not determine it.
        options: of `timm.create_model` that make the architecture the trained one; from the converted state and the
            tensors that conversion replaced.
        normalisation: (mean, std) of images in 0-1; None if the format does not determine it.
        source: where the format is defined.
    """

    name: str
    method: str | None = None
    marks: tuple[str, ...]
    unlike: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    holds: Callable[["State"], bool] = lambda _: True
    leftover: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    convert: Callable[["State"], "State"] = unchanged
    arch: Callable[["State"], str | None] = lambda _: None
    options: Callable[["State"], Mapping[str, Any]] = nothing
    normalisation: tuple[RGB, RGB] | None = None
    source: str

    def recognises(self, inside: "State", whole: Collection[str]) -> bool:
        """Whether the encoder `inside`, in a file with the keys `whole`, is of this format."""
        return (
            all(_some(mark, inside) for mark in self.marks)
            and all(_some(mark, whole) for mark in self.around)
            and not any(_some(mark, inside) for mark in self.unlike)
            and self.holds(inside)
        )


def _some(expression: str, keys: Collection[str]) -> bool:
    pattern = re.compile(expression)
    return any(pattern.match(key) for key in keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """An encoder's weights by timm's names, and what else their file states.

    Attributes:
        state: tensors by timm's key, or by the file's if no rule renames it.
        sources: the file's key of each tensor that was only renamed, for messages.
        outside: the file's keys outside the encoder.
        leftover: the encoder's keys that no model has.
        grid: (rows, columns) of the position embeddings' patches, if the file states them.
    """

    format: str
    method: str | None = None
    state: "State"
    sources: Mapping[str, str]
    outside: tuple[str, ...] = ()
    leftover: tuple[str, ...] = ()
    arch: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    normalisation: tuple[RGB, RGB] | None = None
    grid: tuple[int, int] | None = None


TIMM = Format(name="timm", marks=(), source="timm's own names")


def formats() -> Iterator[Format]:
    """Yield every format, the most specific first."""
    for module in MODULES:
        yield from importlib.import_module(f"{__name__}.{module}").FORMATS


def recognise(state: "State", is_timm: Callable[["State"], bool]) -> Encoder | None:
    """Find the encoder in a file's tensors; None if no format fits.

    Wrappers (`module.`, `backbone.`, ...) are removed one by one until a format fits, or `is_timm` recognises timm's
    own names.
    """
    prefix, inside = "", state
    while inside:
        whole = [*state]
        outside = tuple(key for key in whole if not key.startswith(prefix))
        found = next((f for f in formats() if f.recognises(inside, whole)), None)
        if found or is_timm(inside):
            return _encoder(found or TIMM, inside, prefix, outside)
        prefix += next((p for p in PREFIXES if any(k.startswith(p) for k in inside)), "\0")
        inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return None


def _encoder(found: Format, inside: "State", prefix: str, outside: tuple[str, ...]) -> Encoder:
    dropped = [key for key in inside if any(re.match(rule, key) for rule in found.leftover)]
    sources = {_renamed(found, key): key for key in inside if key not in dropped}
    renamed = {new: inside[old] for new, old in sources.items()}
    state = found.convert(renamed)
    return Encoder(
        format=found.name,
        method=found.method,
        state=state,
        sources={new: prefix + old for new, old in sources.items()},
        outside=outside,
        leftover=tuple(prefix + key for key in dropped),
        arch=found.arch(state),
        options=found.options({**renamed, **state}),
        normalisation=found.normalisation,
    )


def _renamed(found: Format, key: str) -> str:
    for rule, replacement in found.rename:
        key = re.sub(rule, replacement, key)
    return key


# Query, key and value, or gate and value, are separate matrices in some formats and one in timm's.
GATE = re.compile(r"(.*\bmlp\.)gate\.(weight|bias)")
QUERY = re.compile(r"(.*\battn\.)q\.(weight|bias)")


def fuse(state: "State") -> "State":
    """Join `attn.q`, `attn.k` and `attn.v` (D x D, D) of every block to `attn.qkv` (3D x D, 3D).

    Where the key has no bias, those of query and value become `attn.q_bias` and `attn.v_bias`, as BEiT and
    SwinV2 have them. Incomplete or unequal shapes stay unchanged.
    """
    import torch

    fused = dict(state)
    for owner, kind in (found.groups() for found in map(QUERY.fullmatch, state) if found):
        q, k, v = (f"{owner}{part}.{kind}" for part in "qkv")
        if v not in state or state[v].shape != state[q].shape:
            continue
        if k in state and state[k].shape == state[q].shape:
            fused[f"{owner}qkv.{kind}"] = torch.cat([fused.pop(part) for part in (q, k, v)])
        elif k not in state and kind == "bias":
            fused[f"{owner}q_bias"], fused[f"{owner}v_bias"] = fused.pop(q), fused.pop(v)
    return fused


def fuse_gates(state: "State") -> "State":
    """Join `mlp.gate` and `mlp.up` of every gated MLP to `mlp.fc1`, in the order of timm's SwiGLUPacked."""
    import torch

    fused = dict(state)
    for owner, kind in (found.groups() for found in map(GATE.fullmatch, state) if found):
        gate, up = f"{owner}gate.{kind}", f"{owner}up.{kind}"
        if up in state and state[up].shape == state[gate].shape:
            fused[f"{owner}fc1.{kind}"] = torch.cat([fused.pop(gate), fused.pop(up)])
    return fused
