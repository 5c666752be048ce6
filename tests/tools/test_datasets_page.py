"""The table of docs/datasets.md: made from the entries, and its hours from arithmetic."""

import pytest

from bench.datasets import catalogue
from tools import datasets_page


def test_the_page_is_that_of_the_entries() -> None:
    """After a change of an entry: python -m tools.datasets_page --write."""
    assert datasets_page.PAGE.read_text("utf-8") == datasets_page.page(catalogue.entries())


@pytest.mark.parametrize("img_size", [224, 384])
def test_the_arithmetic_is_that_of_the_model(img_size: int) -> None:
    """Against torch's own count; the patch embedding and the classifier are the small rest."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", img_size=img_size).eval()
        images = torch.zeros(1, 3, img_size, img_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(images)
    assert datasets_page.forward(img_size) == pytest.approx(counter.get_total_flops(), rel=0.015)


def test_hours_by_hand() -> None:
    """ImageNet: 100 epochs of 1,281,167 images, 35 GFLOP forward, three times that with backward."""
    rows = datasets_page.page(catalogue.entries()).splitlines()
    imagenet = next(k for k, row in enumerate(rows) if "`classification/imagenet`" in row)
    cells = [cell.strip() for cell in rows[imagenet].split("|")]
    assert cells[5:7] == ["`finetune`", f"{1_281_167 * 100 * 3 * 35e9 / 8 / 124.8e12 / 3600:.1f}"]
    assert cells[3] == "1,281,167 / 50,000"
    assert "83.6" in cells[7]


def test_hours_of_a_backbone_alone_are_a_least() -> None:
    """ViTDet: 100 epochs of COCO; a third of the blocks attend to all 4,097 tokens, the others to windows of 196."""
    rows = datasets_page.page(catalogue.entries()).splitlines()
    coco = next(row for row in rows if "`detection/coco`" in row)
    one = 2 * 12 * 4097 * 12 * 768**2 + 4 * 768 * 4097 * (4 * 4097 + 8 * 196)
    assert f"| over {118_287 * 100 * 3 * one / 8 / 124.8e12 / 3600:.2g} |" in coco


def test_names_that_differ_in_a_number_share_a_cell() -> None:
    assert datasets_page._code(["a-10", "a-2", "a-1"]) == "`a-1 to 10`"
    assert datasets_page._code(["frozen", "dtd", "dtd-2", "dtd-3"]) == "`frozen`, `dtd`, `dtd-2 to 3`"
