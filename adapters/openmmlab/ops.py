"""The few compiled kernels that OpenMMLab's heads call, served from torchvision as `mmcv._ext`.

mmcv installs without its compiled extension. A finder at the end of `sys.meta_path` supplies the missing `mmcv._ext`;
a compiled one takes precedence, since it is found first. Supported on CPU and CUDA in fp32, fp64, fp16 and bf16: nms,
soft-nms, RoIAlign (average mode), sigmoid focal loss. Any other op raises NotImplementedError when called.

The signatures (keyword names, outputs filled in place) are those that `mmcv.ops` calls with.
Kernels lack bf16 on some devices, so half precisions are computed in fp32 and rounded once.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor
from torch.nn import functional as F

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2  # the method numbers of mmcv.ops.soft_nms
MAX_POOL = 0  # the pool_mode numbers of mmcv.ops.roi_align: 0 max, 1 average


def _wide(tensor: Tensor) -> Tensor:
    """Return the tensor in fp32, or in fp64 if it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes (N, 4; x1 y1 x2 y2 in pixels) that survive, best score first.

    With offset 1 a box is x2 - x1 + 1 wide: the same as moving its far corner by one.
    """
    corners = _wide(boxes) + boxes.new_tensor([0, 0, offset, offset], dtype=torch.float32)
    return torch.ops.torchvision.nms(corners, scores.to(corners.dtype), iou_threshold)


def _overlaps(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Return the IoU (N,) of one box (4,) with each of boxes (N, 4)."""
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    shared = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset
    shared = shared.clamp(min=0).prod(1)
    return shared / ((box[2:] - box[:2] + offset).prod() + area - shared)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Decay the scores of overlapping boxes: Soft-NMS (Bodla et al. 2017, equations 2 and 3).

    Fills `dets` (N, 5) with the K selected boxes and their decayed scores, in the order of selection, and returns
    their indices (K,). As in mmcv, a box whose decayed score is below `min_score` is dropped, but never the first
    one selected. Of equal scores the earlier box is selected first.
    """
    boxes, scores = _wide(boxes), _wide(scores)
    left = torch.arange(len(boxes), device=boxes.device)
    picked: list[Tensor] = []
    while len(left):
        best = scores[left].argmax()
        pick = left[best]
        dets[len(picked), :4], dets[len(picked), 4] = boxes[pick], scores[pick]
        picked.append(pick)
        left = torch.cat([left[:best], left[best + 1 :]])
        iou = _overlaps(boxes[pick], boxes[left], offset)
        decayed = scores[left] * _decay(iou, iou_threshold, sigma, method)
        scores = scores.index_put((left,), decayed)
        left = left[decayed >= min_score]
    return torch.stack(picked) if picked else left


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == GAUSSIAN:
        return torch.exp(-(iou**2) / sigma)
    assert method in (NAIVE, LINEAR), f"mmcv.ops.soft_nms has no method {method}"
    return torch.where(iou >= iou_threshold, (1 - iou) * (method == LINEAR), 1.0)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` (R, C, H', W') with the maps (N, C, H, W) averaged inside the rois (R, 5)."""
    _refuse_max_pooling(pool_mode)
    maps = _wide(input)
    size = (aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(torch.ops.torchvision.roi_align(maps, rois.to(maps.dtype), spatial_scale, *size))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `grad_input` (N, C, H, W) from `grad_output` (R, C, H', W')."""
    _refuse_max_pooling(pool_mode)
    grad = _wide(grad_output)
    size = (spatial_scale, aligned_height, aligned_width, *grad_input.shape)
    backward = torch.ops.torchvision._roi_align_backward
    grad_input.copy_(backward(grad, rois.to(grad.dtype), *size, sampling_ratio, aligned))


def _refuse_max_pooling(pool_mode: int) -> None:
    if pool_mode == MAX_POOL:
        raise _uncompiled("roi_align with pool_mode='max'")


def _focal_terms(input: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return sign (+1 for the true class), alpha_t and the logit of p_t, each (N, C)."""
    true = target[:, None] == torch.arange(input.shape[1], device=input.device)
    logits = _wide(input)
    sign = torch.where(true, 1.0, -1.0).to(logits)
    return sign, torch.where(true, alpha, 1 - alpha).to(logits), sign * logits


def _class_weight(weight: Tensor, target: Tensor) -> Tensor | float:
    return _wide(weight)[target][:, None] if weight.numel() else 1.0


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `output` (N, C) with -alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017, equation 5).

    `input` are logits (N, C); `target` (N,) are classes, C meaning background. The logarithm is
    exact; the compiled kernel clamps it below p_t = 1e-38.
    """
    _, alpha_t, logits = _focal_terms(input, target, alpha)
    loss = -alpha_t * torch.sigmoid(-logits) ** gamma * F.logsigmoid(logits)
    output.copy_(loss * _class_weight(weight, target))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` (N, C) with the loss's derivative by the logits (Lin et al., appendix B)."""
    sign, alpha_t, logits = _focal_terms(input, target, alpha)
    p, miss = torch.sigmoid(logits), torch.sigmoid(-logits)
    slope = -sign * alpha_t * miss**gamma * (miss - gamma * p * F.logsigmoid(logits))
    grad_input.copy_(slope * _class_weight(weight, target))


OPS = (nms, softnms, roi_align_forward, roi_align_backward, sigmoid_focal_loss_forward, sigmoid_focal_loss_backward)
VERSIONS = ("get_compiler_version", "get_compiling_cuda_version")  # what environment reports print


def _uncompiled(op: str) -> NotImplementedError:
    return NotImplementedError(
        f"mmcv's op {op} needs a compiled mmcv, and this one is not compiled: only nms, soft-nms, RoIAlign in average "
        "mode and the sigmoid focal loss are supplied by torchvision. Use a head without this op, or install an mmcv "
        "built with its ops."
    )


def _op(name: str) -> Callable[..., object]:
    """Return a supported op, or a function that raises when called: mmcv looks every name up at import."""
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*args: object, **kwargs: object) -> object:
        raise _uncompiled(name)

    supported: dict[str, Callable[..., object]] = {op.__name__: op for op in OPS}
    supported |= dict.fromkeys(VERSIONS, lambda: "none: kernels from torchvision")
    return supported.get(name, refuse)


class TorchvisionOps(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads `mmcv._ext` when nothing else does."""

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for `mmcv._ext` only."""
        return importlib.util.spec_from_loader(fullname, self) if fullname == "mmcv._ext" else None

    def exec_module(self, module: ModuleType) -> None:
        """Set the module's `__getattr__` (PEP 562)."""
        vars(module)["__getattr__"] = _op


def install() -> None:
    """Put the finder last on `sys.meta_path`, once."""
    if not any(isinstance(finder, TorchvisionOps) for finder in sys.meta_path):
        sys.meta_path.append(TorchvisionOps())
