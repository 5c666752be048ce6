import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from PIL import Image
from safetensors import safe_open
from small_runs import RECIPE, equal, moved_apart, network, train

from bench.backbones import build, resolve
from bench.backbones.normalise import normalisation
from bench.errors import UserError
from bench.training.hooks import newest_checkpoint
from pretrain import training
from pretrain.hooks import GAP, Pictures, PretrainingProgress, grid
from pretrain.training import REQUIRED, export

pytestmark = pytest.mark.usefixtures("one_thread")


def spoilt(iteration: int) -> Callable[[training.BatchStream], training.BatchStream]:
    """From an iteration on, pixels are no numbers."""

    def change(given: training.BatchStream) -> training.BatchStream:
        def augment(raw: Any, position: tuple[int, ...]) -> Any:
            batch = given.augment(raw, position)
            bad = float("nan") if position[1] >= iteration else 1.0
            return dataclasses.replace(batch, images=batch.images * bad)

        return dataclasses.replace(given, augment=augment)

    return change


def test_a_loss_that_is_no_number_stops_and_leaves_the_last_good_checkpoint(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in iteration 4 of 6.*checkpoint-000000003\.pth"):
        train(images, tmp_path, change=spoilt(3))
    last = newest_checkpoint(tmp_path, training.CHECKPOINTS)
    assert last is not None
    weights = torch.load(last, weights_only=False)["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values())


class Poison(Hook):
    """The loss stays a number, and the weights do not."""

    def after_train_iter(self, runner: Any, batch_idx: int, **_: Any) -> None:
        if batch_idx == 2:
            training.trained(runner).siamese.encoder.patch_embed.proj.bias.data[0] = torch.nan


def test_weights_that_are_no_numbers_are_never_saved(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are NaN or infinite after iteration 3 of 6"):
        train(images, tmp_path, hooks=[Poison()])
    assert newest_checkpoint(tmp_path, training.CHECKPOINTS) == tmp_path / "checkpoint-000000002.pth"


class Spy(Hook):
    """Keeps what each iteration has."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.biases: list[torch.Tensor] = []
        self.losses: list[float] = []

    def after_train_iter(self, runner: Any, outputs: Any = None, **_: Any) -> None:
        self.rates.append(runner.optim_wrapper.param_groups[0]["lr"])
        encoder = training.trained(runner).siamese.encoder
        self.biases.append(encoder.blocks[0].mlp.fc1.bias.detach().clone())
        self.losses.append(float(outputs["loss"].detach()))


def test_rates_are_the_recipes_and_the_average_is_the_closed_form(images: Path, tmp_path: Path) -> None:
    spy = Spy()
    weights = train(images, tmp_path, hooks=[spy])
    expected = [RECIPE.learning_rate((k + 1) / 3) for k in range(6)]
    assert spy.rates == pytest.approx(expected)
    average = spy.biases[0]  # the first update's weights; then half old, half new
    for bias in spy.biases[1:]:
        average = 0.5 * average + 0.5 * bias
    assert torch.allclose(weights["blocks.0.mlp.fc1.bias"], average, atol=1e-7)
    assert not torch.equal(spy.biases[0], spy.biases[5])


def test_parts_of_a_batch_make_the_whole(images: Path, tmp_path: Path) -> None:
    """Without masks the loss of a batch is the mean of its parts'; the loader's order is one."""
    recipe = dataclasses.replace(RECIPE, ema=None, precision="fp32", base_lr=1e-2)
    start = {k: v.clone() for k, v in network("supervised").encoder.state_dict().items()}
    whole, parts = (
        train(
            images,
            tmp_path / str(accumulate),
            siamese=network("supervised"),
            recipe=recipe,
            accumulate=accumulate,
            change=centred,
        )
        for accumulate in (1, 2)
    )
    assert moved_apart(whole, parts, start) < 0.01


def centred(given: training.BatchStream) -> training.BatchStream:
    """Pixels that follow from the label alone, wherever and when the image is cropped."""

    def augment(raw: Any, position: tuple[int, ...]) -> Any:
        batch = given.augment(raw, position)
        constant = batch.labels[:, None, None, None] * torch.ones_like(batch.images)
        return dataclasses.replace(batch, images=constant)

    return dataclasses.replace(given, augment=augment)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_forward_pass_has_the_recipes_precision(
    precision: Any, dtype: torch.dtype, images: Path, tmp_path: Path
) -> None:
    siamese, seen = network(), set()
    siamese.encoder.blocks[0].mlp.fc1.register_forward_hook(lambda *a: seen.add(a[2].dtype))
    weights = train(images, tmp_path, siamese=siamese, recipe=dataclasses.replace(RECIPE, precision=precision))
    assert seen == {dtype}
    assert weights["blocks.0.mlp.fc1.weight"].dtype == torch.float32


def test_vectors_and_positions_are_not_decayed() -> None:
    siamese = network()
    schedule = training.Schedule(recipe=RECIPE, updates_per_epoch=3)
    wrapper = training.optimiser(siamese, schedule)
    decayed = {id(p) for g in wrapper.param_groups if g["weight_decay"] for p in g["params"]}
    names = {name for name, p in siamese.named_parameters() if id(p) in decayed}
    assert "encoder.blocks.0.mlp.fc1.weight" in names
    assert not {n for n in names if n.endswith("bias") or "norm" in n or "pos_embed" in n}
    assert "encoder.cls_token" not in names


def test_curves_and_pictures_are_there(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(images, tmp_path, hooks=[PretrainingProgress("mae test_vit", images=4), Pictures(images=3)])
    assert list(tmp_path.rglob("events.out.tfevents*"))
    for epoch in (1, 2):
        with Image.open(tmp_path / "pictures" / f"epoch-{epoch:04d}.png") as picture:
            assert picture.size == (3 * 64 + 2 * GAP, 3 * 64 + 2 * GAP)
    said = capsys.readouterr().err
    assert "mae test_vit: iteration 1/6 epoch 0.33/2 loss" in said
    assert "images/s, waited" in said


def test_pictures_change_no_weight(images: Path, tmp_path: Path) -> None:
    one = train(images, tmp_path / "with", hooks=[Pictures()])
    assert equal(one, train(images, tmp_path / "without"))


def test_a_picture_has_a_column_an_image() -> None:
    panels = torch.zeros(2, 3, 3, 4, 5)
    panels[1, 2, 0] = 1  # the second image's third panel is red
    picture = grid(panels)
    assert picture.shape == (3 * 4 + 2 * GAP, 2 * 5 + GAP, 3)
    corner = picture[2 * (4 + GAP) :, 5 + GAP :]
    assert np.array_equal(corner, np.broadcast_to([255, 0, 0], (4, 5, 3)))
    assert (picture[4 : 4 + GAP] == 255).all()
    assert (picture[:4, :5] == 0).all()


HEADER = {
    **dict.fromkeys(REQUIRED, "x"),
    "arch": "test_vit",
    "method": "mae",
    "mean": "[0.1, 0.2, 0.3]",
    "std": "[0.4, 0.5, 0.6]",
    "img_size": "[64, 64]",
}


@pytest.mark.parametrize("name", ["mae", "simmim", "moco", "supervised"])
def test_the_file_gives_the_encoders_features(name: str, tmp_path: Path) -> None:
    siamese = network(name).eval()
    with torch.no_grad():
        for parameter in siamese.encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    path = tmp_path / "backbone.safetensors"
    export(siamese.encoder, path, HEADER)
    loaded, report = build.build("test_vit", weights=path, img_size=64, num_classes=0)
    assert [*report.missing, *report.unexpected, *report.resampled] == []
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = siamese.encoder.forward_features(images)
        assert torch.allclose(loaded.eval().forward_features(images), expected, atol=1e-6)


def test_another_size_is_resampled(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    export(network().encoder, path, HEADER)
    loaded, report = build.build("test_vit", weights=path, img_size=96, num_classes=0)
    assert [entry for entry in report.resampled if "pos_embed" in str(entry)]
    assert loaded.pos_embed.shape[1] == 37  # 6 x 6 patches and the class token


def test_the_header_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    export(network().encoder, path, HEADER)
    with safe_open(path, "pt") as file:
        assert file.metadata() == HEADER
    found = resolve.resolve(str(path))
    assert (found.arch, found.method) == ("test_vit", "mae")
    assert normalisation(found) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert json.loads(found.pretraining["img_size"]) == [64, 64]


def test_nothing_else_is_exported(tmp_path: Path) -> None:
    siamese = network("moco")
    path = tmp_path / "backbone.safetensors"
    export(siamese.encoder, path, HEADER)
    with safe_open(path, "pt") as file:
        keys = set(file.keys())
    assert keys == set(siamese.encoder.state_dict())
    assert not [key for key in keys if "target" in key or "embedding" in key]


def test_a_mask_token_lies_beside_the_encoder_that_was_shown_it(tmp_path: Path) -> None:
    siamese = network("simmim")
    path = tmp_path / "backbone.safetensors"
    export(siamese.encoder, path, {**HEADER, "method": "simmim"}, siamese.mask_token)
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("mask_token"), siamese.mask_token.detach())
    _, report = build.build("test_vit", weights=path, img_size=64, num_classes=0)
    assert [*report.missing, *report.unexpected, *report.resampled] == []
    assert report.leftover == ("mask_token",)
    assert network("mae").mask_token is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        export(network().encoder, tmp_path / "nowhere" / "backbone.safetensors", HEADER)
    assert not list(tmp_path.iterdir())
