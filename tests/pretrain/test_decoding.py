"""From a file's bytes to crops: boxes, reduced decoding, and every kind of image."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from pretrain import data
from pretrain.data import Unusable, crops_of, draw_box


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def smooth(width: int, height: int) -> Image.Image:
    """Waves of some hundred pixels, as a photograph has and noise has not."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 90 + k) + np.cos(y / 70 * (k + 1)) for k in range(3)]
    return Image.fromarray((127.5 + 60 * np.stack(waves, 2)).astype(np.uint8))


def whole(width: int, height: int) -> list[data.Box]:
    return [(0, 0, width, height)]


def test_boxes_have_the_area_and_the_ratio_asked_for_and_lie_in_the_image():
    for k in range(300):
        random = np.random.default_rng(k)
        left, upper, right, lower = draw_box(random, (0.2, 1.0), 640, 480)
        assert 0 <= left < right <= 640
        assert 0 <= upper < lower <= 480
        width, height = right - left, lower - upper
        assert 0.199 < width * height / (640 * 480) <= 1
        assert 0.745 < width / height < 1.34


def test_boxes_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image = torch.zeros(3, 333, 500)
    theirs = [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    boxes = [draw_box(np.random.default_rng(k), (0.2, 1.0), 500, 333) for k in range(3000)]
    ours = [(upper, left, lower - upper, right - left) for left, upper, right, lower in boxes]
    for a, b in zip(np.array(ours).T, np.array(theirs).T, strict=True):
        error = np.hypot(a.std(), b.std()) / np.sqrt(3000)
        assert abs(a.mean() - b.mean()) < 4 * error
        assert a.std() == pytest.approx(b.std(), rel=0.08)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_an_image_of_any_shape_has_a_box(width, height):
    left, upper, right, lower = draw_box(np.random.default_rng(0), (0.2, 1.0), width, height)
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height


def test_a_crop_is_the_box_of_the_image_resized():
    image = smooth(200, 150)
    (crop,), _ = crops_of(encoded(image), draw=lambda *_: [(20, 10, 120, 110)], size=100)
    expected = torch.from_numpy(np.array(image)[10:110, 20:120]).permute(2, 0, 1)
    assert crop.equal(expected), "at its own size nothing is interpolated"


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    image = smooth(1601, 1203)
    content = encoded(image, "JPEG", quality=95)
    boxes = [(101, 203, 1301, 1103), (0, 0, 1601, 1203)]
    with Image.open(io.BytesIO(content)) as file:
        assert data._shrink(file, boxes, 224) == 4, "900 rows for 224: 4 times, not 8"
        assert file.size == (401, 301)
        file.load()
    crops, _ = crops_of(content, draw=lambda *_: boxes, size=224)
    full = Image.open(io.BytesIO(content)).convert("RGB")
    for crop, box in zip(crops, boxes, strict=True):
        expected = np.asarray(full.resize((224, 224), Image.Resampling.BICUBIC, box=box))
        error = np.abs(crop.permute(1, 2, 0).numpy().astype(int) - expected)
        assert error.mean() < 1.5
        assert error.max() <= 7, "half a pixel of the smaller image, where it changes most"


def test_a_crop_that_needs_all_pixels_keeps_the_image_whole():
    with Image.open(io.BytesIO(encoded(smooth(1600, 1200), "JPEG"))) as file:
        assert data._shrink(file, [(0, 0, 1600, 1200), (0, 0, 400, 400)], 224) == 1


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
KINDS = {
    "greyscale": (Image.fromarray(GREY), "PNG"),
    "greyscale-jpeg": (Image.fromarray(np.full((8, 8), 77, np.uint8)), "JPEG"),
    "alpha": (Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (8, 8), 9)]), "PNG"),
    "rgba": (Image.merge("RGBA", [Image.fromarray(GREY)] * 3 + [Image.new("L", (8, 8))]), "PNG"),
    "palette": (Image.fromarray(GREY).convert("P"), "PNG"),
    "bilevel": (Image.fromarray(GREY > 100), "PNG"),
    "cmyk": (Image.new("CMYK", (8, 8), (0, 0, 0, 155)), "JPEG"),
    "16-bit": (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
    "16-bit-tiff": (Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_becomes_rgb(kind):
    image, format = KINDS[kind]
    (crop,), _ = crops_of(encoded(image, format), draw=whole, size=8)
    assert crop.shape == (3, 8, 8)
    assert crop.dtype == torch.uint8
    expected = {"greyscale-jpeg": 77, "cmyk": 100, "bilevel": (GREY > 100) * 255}.get(kind, GREY)
    expected = np.broadcast_to(expected, (3, 8, 8)).astype(int)
    assert np.abs(crop.numpy() - expected).max() <= 1


JPEG = encoded(smooth(64, 64), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its 0 bytes are not an image"),
        (b"no image at all", "not an image"),
        (JPEG[:300], "Truncated"),
        (JPEG[:-100], "truncated"),
        (encoded(smooth(64, 64))[:500], "truncated|broken"),
        (encoded(smooth(15, 40)), "its 15 x 40 pixels are fewer than a patch of 16"),
        (encoded(Image.fromarray(np.ones((32, 32), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_what_is_no_usable_image_is_said_to_be(content, reason):
    with pytest.raises(Unusable, match=reason) as raised:
        crops_of(content, draw=whole, size=16, smallest=16)
    assert not re.search(r"0x[0-9a-f]{6}", str(raised.value)), "an address differs from run to run"


def test_a_mask_is_cropped_as_its_image():
    mask = np.zeros((96, 128), bool)
    mask[20:70, 30:90] = True
    image = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, 2))
    (crop,), cropped = crops_of(encoded(image), draw=lambda *_: [(10, 5, 100, 85)], size=40, mask=mask)
    assert ((crop[0].numpy() > 127) == cropped).mean() > 0.99
    assert 0.3 < cropped.mean() < 0.6
