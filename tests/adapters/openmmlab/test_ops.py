import importlib
import math
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from adapters.openmmlab import ops

ops.install()

import mmcv.ops  # noqa: E402  it imports only once the finder is installed

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DTYPES = list(TOLERANCE)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def random_boxes(count: int) -> Tensor:
    """Boxes of 10 to 18 pixels, so crowded that some pairs overlap by more than 0.7."""
    corners, sizes = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(0))
    return torch.cat([corners * 30, corners * 30 + 10 + sizes * 8], 1)


def slow_iou(a: list[float], b: list[float], offset: int) -> float:
    def length(low: float, high: float) -> float:
        return high - low + offset

    width = max(0.0, length(max(a[0], b[0]), min(a[2], b[2])))
    height = max(0.0, length(max(a[1], b[1]), min(a[3], b[3])))
    areas = [length(x[0], x[2]) * length(x[1], x[3]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(slow_iou(boxes[i].tolist(), boxes[k].tolist(), offset) <= threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
def test_nms_equals_the_greedy_definition(device: str, offset: int, threshold: float) -> None:
    boxes, scores = random_boxes(80), torch.rand(80, generator=torch.Generator().manual_seed(1))
    dets, kept = mmcv.ops.nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    assert kept.tolist() == slow_nms(boxes, scores, threshold, offset)
    assert 1 < len(kept) < 80
    torch.testing.assert_close(dets.cpu(), torch.cat([boxes, scores[:, None]], 1)[kept.cpu()])


def test_the_offset_of_nms_decides_a_touching_pair() -> None:
    # Inclusive pixels (offset 1): 3x3 and 3x3 sharing 2x3, IoU 6 / 12. Exclusive: 2 / 6.
    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2]]), torch.tensor([0.9, 0.8])
    assert mmcv.ops.nms(boxes, scores, 0.4, offset=0)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, 0.4, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nms_takes_half_precisions(device: str, dtype: torch.dtype) -> None:
    boxes = random_boxes(40).to(device, dtype)
    scores = torch.linspace(0.1, 0.9, 40, device=device)
    _, kept = mmcv.ops.nms(boxes, scores.to(dtype), 0.5)
    expected = torchvision.ops.nms(boxes.float(), scores.to(dtype).float(), 0.5)
    assert kept.tolist() == expected.tolist()


def test_nms_of_nothing_is_nothing() -> None:
    dets, kept = mmcv.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)


def test_batched_nms_never_suppresses_across_classes() -> None:
    boxes = random_boxes(60)
    scores = torch.rand(60, generator=torch.Generator().manual_seed(2))
    classes = torch.arange(60) % 3
    _, kept = mmcv.ops.batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.3})
    expected = torchvision.ops.batched_nms(boxes, scores, classes, 0.3)
    assert kept.tolist() == expected.tolist()
    settings = {"type": "nms", "iou_threshold": 0.3, "split_thr": 10}
    assert mmcv.ops.batched_nms(boxes, scores, classes, settings)[1].tolist() == expected.tolist()


def slow_soft_nms(
    boxes: list[list[float]], scores: list[float], method: str, sigma: float, least: float
) -> list[tuple[int, float]]:
    """Bodla et al. 2017, figure 2, on lists, with the threshold 0.3."""
    left, picked = dict(enumerate(scores)), []
    while left:
        best = max(left, key=lambda i: left[i])
        picked.append((best, left.pop(best)))
        for i in list(left):
            iou = slow_iou(boxes[best], boxes[i], 0)
            if method == "gaussian":
                left[i] *= math.exp(-(iou**2) / sigma)
            elif iou >= 0.3:
                left[i] *= 1 - iou if method == "linear" else 0
            if left[i] < least:
                del left[i]
    return picked


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_equals_the_paper(method: str) -> None:
    boxes, scores = random_boxes(60), torch.rand(60, generator=torch.Generator().manual_seed(3))
    dets, kept = mmcv.ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
    expected = slow_soft_nms(boxes.tolist(), scores.tolist(), method, 0.5, 0.05)
    assert kept.tolist() == [i for i, _ in expected]
    assert len(kept) < 60
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in expected]))
    torch.testing.assert_close(dets[:, :4], boxes[kept])


def test_soft_nms_by_hand() -> None:
    # 10x10 boxes; the second overlaps the first by half: IoU 50 / 150 = 1/3; the third is apart.
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.6, 0.5])
    dets, kept = mmcv.ops.soft_nms(boxes, scores, 0.3, method="linear")
    assert kept.tolist() == [0, 2, 1]  # the second decays to 0.6 * 2/3 = 0.4, under the third
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5, 0.4]))
    dets, _ = mmcv.ops.soft_nms(boxes, scores, sigma=0.5, method="gaussian")
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5, 0.6 * math.exp(-2 / 9)]))
    # Inclusive pixels: 11x11 boxes sharing 6x11, IoU 66 / 176 = 0.375.
    dets, _ = mmcv.ops.soft_nms(boxes, scores, 0.3, method="linear", offset=1)
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5, 0.6 * 0.625]))


def test_soft_nms_keeps_a_single_weak_box_and_takes_none() -> None:
    box = torch.tensor([[0.0, 0, 1, 1]])
    assert mmcv.ops.soft_nms(box, torch.tensor([1e-6]))[1].tolist() == [0]
    assert mmcv.ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))[1].tolist() == []


ROIS = torch.tensor([[0, 2.3, 1.1, 30.7, 25.2], [1, 0, 0, 12, 40], [0, 20, 20, 45, 44]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_and_its_gradient_equal_torchvision(
    device: str, dtype: torch.dtype, aligned: bool, sampling_ratio: int
) -> None:
    maps = torch.randn(2, 3, 12, 11, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    upstream = torch.randn(3, 3, 4, 5, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    rois = ROIS.to(device)
    ours, theirs = maps.clone().requires_grad_(), maps.float().requires_grad_()
    pooled = mmcv.ops.RoIAlign((4, 5), 0.25, sampling_ratio, aligned=aligned)(ours, rois)
    expected = torchvision.ops.roi_align(theirs, rois, (4, 5), 0.25, sampling_ratio, aligned)
    pooled.backward(upstream)
    expected.backward(upstream.float())
    assert pooled.dtype == ours.grad.dtype == dtype
    limit = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(pooled.float(), expected, **limit)
    torch.testing.assert_close(ours.grad.float(), theirs.grad, **limit)


def test_roi_align_of_a_ramp_is_the_ramp_at_the_bin_centres() -> None:
    # Bilinear interpolation is exact on a linear ramp; pixel centres lie at integers + 0.5.
    ramp = torch.arange(16.0).expand(1, 1, 16, 16).contiguous()
    roi = torch.tensor([[0, 2.0, 2.0, 10.0, 10.0]])
    pooled = mmcv.ops.roi_align(ramp, roi, (4, 4), 1.0, 2, "avg", True)
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([3.0, 5, 7, 9]) - 0.5)


def test_roi_align_gradient_by_finite_differences() -> None:
    maps = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.6, 1.2, 5.1, 4.7]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: mmcv.ops.roi_align(x, rois, (2, 2), 1.0, 2, "avg", True), maps, fast_mode=True
    )


def test_max_roi_align_says_what_it_needs() -> None:
    with pytest.raises(NotImplementedError, match=r"pool_mode='max'.*compiled mmcv"):
        mmcv.ops.roi_align(torch.zeros(1, 1, 4, 4), ROIS[:1], (2, 2), 1.0, 2, "max", True)


def closed_form_focal(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    truth = F.one_hot(target, logits.shape[1] + 1)[:, :-1].bool()
    p = torch.sigmoid(logits)
    hit = -alpha * (1 - p) ** gamma * torch.log(p)
    miss = -(1 - alpha) * p**gamma * torch.log(1 - p)
    return torch.where(truth, hit, miss)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.6)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_focal_loss_and_its_gradient_equal_the_closed_form(
    device: str, dtype: torch.dtype, gamma: float, alpha: float, reduction: str
) -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).mul(2).to(device, dtype)
    target = (torch.arange(20) % 6).to(device)  # 5 is the background
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = mmcv.ops.sigmoid_focal_loss(ours, target, gamma, alpha, None, reduction)
    expected = closed_form_focal(theirs, target, gamma, alpha)
    expected = {"none": expected, "mean": expected.sum() / 20, "sum": expected.sum()}[reduction]
    loss.sum().backward()
    expected.sum().backward()
    assert loss.dtype == ours.grad.dtype == dtype
    limit = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(loss.double(), expected, **limit)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, **limit)


def test_focal_loss_weights_rows_by_the_class_of_their_target() -> None:
    logits, target = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    weight = torch.tensor([1.0, 10.0, 0.5])
    plain = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    weighted = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, "none")
    torch.testing.assert_close(weighted, plain * torch.tensor([1, 0.5, 10, 0.5])[:, None])


def test_focal_loss_is_finite_at_extreme_logits() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "none")
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([[0.75 * 200, 0.25 * 200]]))
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25]]))


def test_another_op_imports_and_says_what_it_needs_when_called() -> None:
    convolution = mmcv.ops.DeformConv2d(2, 2, 3, padding=1)
    with pytest.raises(NotImplementedError, match=r"deform_conv_forward.*compiled mmcv"):
        convolution(torch.zeros(1, 2, 5, 5), torch.zeros(1, 18, 5, 5))


def test_installing_twice_adds_one_finder_and_it_is_last() -> None:
    ops.install()
    ops.install()
    assert [type(f) for f in sys.meta_path].count(ops.TorchvisionOps) == 1


def test_a_compiled_mmcv_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A real _ext.so lies in mmcv's folder and is found by the path finder, as this file is.
    (tmp_path / "_ext.py").write_text("nms = 'compiled'")
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path), *mmcv.__path__])
    monkeypatch.setattr(mmcv, "_ext", mmcv._ext)  # put back afterwards, like the next line
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    assert importlib.import_module("mmcv._ext").nms == "compiled"
