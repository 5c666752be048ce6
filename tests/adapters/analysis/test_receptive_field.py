"""Where the effective receptive field of a map lies, and how large it is."""

from pathlib import Path

import pytest
import torch
from analysis_jobs import TRANSFORMERS, job, small
from contract_families import images
from torch import Tensor
from torch.nn import functional as F

from adapters.analysis.receptive_field import gradients, measure
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_receptive_field(scenes: Path) -> None:
    """It grows from stage to stage, and one 3 x 3 convolution sees 3 x 3 pixels."""
    work = job("receptive-field", scenes, "test_resnet")
    found = work.task.evaluate(work).metrics
    assert found["ERF"] == found["ERF/4"] > found["ERF/0"] > 1
    assert (work.work_dir / "beside/receptive-field.png").is_file()
    field = torch.zeros(9, 9, dtype=torch.float64)
    field[3:6, 3:6] = 1.0
    field[0, 0] = 0.04
    size, distance = measure(field, 1 - 0.9545)
    assert size == 3.0
    assert distance == pytest.approx((4 + 4 * 2**0.5 + 0.04 * 4 * 2**0.5) / 9.04)
    with pytest.raises(UserError, match="gradient is 0 everywhere"):
        measure(torch.zeros(9, 9), 0.05)


@pytest.mark.parametrize("name", [*sorted(TRANSFORMERS), "ConvNeXt", "EfficientNet"])
def test_every_family_has_a_receptive_field(name: str) -> None:
    model, size = small(name)
    fields = gradients(model, images(*size, count=1))
    assert fields.shape[1:] == size
    assert fields.isfinite().all()
    assert (fields.amax((1, 2)) > 0).all()


def test_one_convolution_sees_its_kernel_about_the_centre() -> None:
    class Net(torch.nn.Module):
        def forward_intermediates(self, x: Tensor, intermediates_only: bool) -> list[Tensor]:
            return [F.conv2d(x, torch.ones(1, 3, 5, 5), padding=2)]

    field = gradients(Net(), images(16, 16))[0]
    assert field.nonzero().amin(0).tolist() == [6, 6]
    assert field.nonzero().amax(0).tolist() == [10, 10]
