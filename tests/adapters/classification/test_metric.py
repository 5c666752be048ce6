import pytest
import torch

from adapters.classification.metric import accuracies


def test_a_case_worked_by_hand():
    """Six classes, five images; images 0-2 are of class 0, 3 of class 1, 4 of class 5."""
    logits = torch.tensor(
        [
            [9.0, 1, 2, 3, 4, 5],  # right
            [9.0, 1, 2, 3, 4, 5],  # right
            [0.0, 1, 2, 3, 4, 5],  # sixth: not among the five
            [6.0, 5, 4, 3, 2, 1],  # second
            [0.0, 1, 2, 3, 4, 5],  # right
        ]
    )
    found = accuracies(logits, torch.tensor([0, 0, 0, 1, 5]))
    assert found["top1"] == pytest.approx(100 * 3 / 5)
    assert found["top5"] == pytest.approx(100 * 4 / 5)
    assert found["mean_class_accuracy"] == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)


@pytest.mark.parametrize(("classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_top5_is_left_out_where_it_could_only_be_100(classes, has_top5):
    found = accuracies(torch.eye(classes), torch.arange(classes))
    assert ("top5" in found) == has_top5
    assert set(found.values()) == {100.0}
