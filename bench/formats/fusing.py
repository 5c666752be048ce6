"""Query, key and value, gate and value: matrices of their own in some formats, one in timm's."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.formats import State

GATE = re.compile(r"(.*\bmlp\.)gate\.(weight|bias)")
QUERY = re.compile(r"(.*\battn\.)q\.(weight|bias)")


def fuse(state: "State") -> "State":
    """Join `attn.q`, `attn.k` and `attn.v` (D x D, D) of every block to `attn.qkv` (3D x D, 3D).

    Where the key has no bias, those of query and value become `attn.q_bias` and `attn.v_bias`, as BEiT and
    SwinV2 have them. What lacks a part, or is of unequal shapes, stays as it is.
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
