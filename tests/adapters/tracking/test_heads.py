"""The head: labels by hand, the loss against a direct statement, boxes where the cells are."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from adapters.openmmlab import compatibility

compatibility.prepare()

from adapters.tracking.heads import (  # noqa: E402  # noqa: E402
    Fusion,
    FusionLayer,
    Positions,
    TrackingHead,
    corners,
    hann,
    touched,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(cells: Tensor, grid: int) -> list[str]:
    return ["".join("x" if cell else "." for cell in row) for row in cells.view(grid, grid).tolist()]


def test_cells_that_a_box_touches() -> None:
    """By hand, on 4 x 4 cells: from 0.3 to 0.6 across, and 0.1 to 0.2 down."""
    truth = torch.tensor([[0.45, 0.15, 0.3, 0.1], [0.9, 0.9, 0.4, 0.02], [0.5, 0.5, 1, 1]])
    cells = touched(truth, 4)

    assert rows(cells[0], 4) == [".xx.", "....", "....", "...."]
    assert rows(cells[1], 4) == ["....", "....", "....", "..xx"]  # over the border
    assert cells[2].all()


def direct_loss(logits: np.ndarray, boxes: Tensor, truth: Tensor, inside: Tensor) -> list[float]:
    """Cell by cell: varifocal (arXiv 2008.13367, eq. 2), and 1 - GIoU weighted by the score."""
    score, located, weights, cells = 0.0, 0.0, 0.0, 0
    for n, cell in np.ndindex(*logits.shape):
        p = 1 / (1 + np.exp(-logits[n, cell]))
        q = 0.0
        if inside[n, cell]:
            found, wanted = corners(boxes[n, cell : cell + 1]), corners(truth[n : n + 1])
            q = float(box_iou(found, wanted))
            located += p * (1 - float(generalized_box_iou(found, wanted)))
            weights, cells = weights + p, cells + 1
        negative, positive = -np.log(1 - p), -np.log(p)
        score += q * (q * positive + (1 - q) * negative) if q else 0.75 * p**2 * negative
    return [1.5 * score / cells, 1.5 * located / weights]


def test_loss_is_what_the_paper_says() -> None:
    random = torch.Generator().manual_seed(0)
    head = TrackingHead(8, 4, anchored=False)
    logits = torch.randn(2, 16, generator=random)
    boxes = torch.rand(2, 16, 4, generator=random) * 0.5 + 0.2
    truth = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.2, 0.7, 0.3, 0.3]])
    losses = head.loss(logits, boxes, truth)

    expected = direct_loss(logits.double().numpy(), boxes, truth, touched(truth, 4))
    assert [float(value) for value in losses.values()] == pytest.approx(expected, rel=1e-4)


def test_scores_get_no_gradient_of_boxes_nor_boxes_of_scores() -> None:
    head = TrackingHead(8, 4, anchored=True)
    logits = torch.zeros(1, 16, requires_grad=True)
    boxes = torch.full((1, 16, 4), 0.4).requires_grad_()
    losses = head.loss(logits, boxes, torch.tensor([[0.5, 0.5, 0.4, 0.3]]))

    assert torch.autograd.grad(losses["loss_score"], boxes, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(losses["loss_box"], logits, allow_unused=True) == (None,)


def test_anchored_boxes_start_at_their_cells() -> None:
    _, boxes = TrackingHead(8, 4, anchored=True)(torch.randn(1, 16, 8))
    assert boxes[0, 6].tolist() == pytest.approx([5 / 8, 3 / 8, 1 / 4, 1 / 4])  # row 1, column 2
    _, boxes = TrackingHead(8, 4, anchored=False)(torch.zeros(1, 16, 8))
    assert boxes[0, 6].tolist() == pytest.approx([0.5] * 4)


def test_window_is_highest_in_the_middle() -> None:
    window = hann(5).view(5, 5)

    assert window.argmax() == 12
    assert window[2].tolist() == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_decoder_layer_is_the_encoder_layer_on_the_search_alone() -> None:
    layer, tokens = FusionLayer(8, 2, 0.0).eval(), torch.randn(3, 20, 8)
    bias = Positions(8, 2, (2, 4))(20)

    torch.testing.assert_close(layer(tokens, bias[:, -16:]), layer(tokens, bias)[:, -16:])


def test_positions_are_relative_within_and_between_crops() -> None:
    """Without the absolute part: one number for each difference of places and each pair of crops."""
    positions = Positions(8, 2, (2, 3))
    index = positions.relative_index
    places = [(0, r, c) for r in range(2) for c in range(2)]
    places += [(1, r, c) for r in range(3) for c in range(3)]
    kinds = {
        (a[0], b[0], a[1] - b[1], a[2] - b[2]): int(index[i, j])
        for i, a in enumerate(places)
        for j, b in enumerate(places)
    }

    assert index.shape == (13, 13)
    assert len(kinds) == len(set(kinds.values())) == positions.relative.shape[1]
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            assert kinds[a[0], b[0], a[1] - b[1], a[2] - b[2]] == index[i, j]


def test_absolute_positions_are_a_product_of_projections() -> None:
    positions = Positions(8, 2, (1, 2))
    torch.nn.init.zeros_(positions.relative)
    places = [positions.rows[0][0] + positions.columns[0][0]]
    places += [positions.rows[1][r] + positions.columns[1][c] for r in range(2) for c in range(2)]
    normed = positions.norm(torch.stack(places))
    query, key = positions.ask(normed), positions.answer(normed)
    expected = [query[:, h : h + 4] @ key[:, h : h + 4].T / 2 for h in (0, 4)]

    torch.testing.assert_close(positions(5), torch.stack(expected))


def test_fusion_depends_on_the_template_and_keeps_the_search_grid() -> None:
    torch.manual_seed(0)
    fusion = Fusion(16, 4, 2, (2, 4), 0.1).eval()
    search = torch.randn(2, 16, 16)
    seen = [fusion(torch.randn(2, 4, 16), search) for _ in range(2)]

    assert seen[0].shape == (2, 16, 16)
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    assert [layer.drop_path.drop_prob for layer in (*fusion.encoder, fusion.decoder)] == (pytest.approx([0, 0.05, 0.1]))
