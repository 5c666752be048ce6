import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small_runs import network

from bench.backbones import build, resolve
from bench.backbones.normalise import normalisation
from bench.errors import UserError
from pretrain.export import REQUIRED, export

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
