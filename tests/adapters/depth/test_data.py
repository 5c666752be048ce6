"""Depth data: what is refused, in which words, and what the transforms do to a pair."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from adapters.depth import FOLDER_LAYOUT, KITTI_LAYOUT, NYU_LAYOUT, Layout, data
from bench.errors import UserError


def write(folder: Path, name: str, metres: np.ndarray, scale: float = 1000.0) -> None:
    image, depth = folder / f"images/{name}.jpg", folder / f"annotations/{name}.png"
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*metres.shape, 3), 90, np.uint8)).save(image)
    Image.fromarray(np.rint(metres * scale).astype(np.uint16)).save(depth)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write(tmp_path, f"rgb{i}", np.linspace(0, 9, 48).reshape(6, 8))
    write(tmp_path, "no_digit", np.zeros((6, 8)))
    return tmp_path


def check(folder: Path, layout: Layout = NYU_LAYOUT) -> None:
    layout = data.calibrated(layout, folder)
    both = data.pairs(folder / "images", folder / "annotations")
    data.check(both, layout, folder / "cache")


def save(value: np.ndarray, name: str = "annotations/rgb1.png", kind: str = "PNG") -> Any:
    return lambda folder: Image.fromarray(value).save(folder / name, kind)


def move(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def cut(name: str) -> Callable[[Path], object]:
    def truncate(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return truncate


NAN = np.where(np.eye(6, 8) > 0, np.nan, 1).astype(np.float32)
DEPTH = np.full((6, 8), 3000, np.uint16)
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "eight bits": (
        save(np.full((6, 8), 99, np.uint8)),
        r"annotations/rgb1.png is 8 bits a pixel; expected is one channel of 16 bits",
    ),
    "colour": (save(np.zeros((6, 8, 3), np.uint8)), r"rgb1.png is a picture of mode RGB"),
    "size": (save(np.zeros((6, 9), np.uint16)), r"depth map .*rgb1.png measures 9x6 and its image rgb1.jpg 8x6"),
    "beyond": (
        save(np.full((6, 8), 30000, np.uint16)),
        r"rgb1.png .* most lie beyond 10 m: 30 to 30 m with a scale of 1000 .* 5000 would put .* at 6 to 6 m",
    ),
    "beneath": (save(np.ones((6, 8), np.uint16)), r"rgb1.png .* not above 1 mm: 0.001 to 0.001 m"),
    "nothing known": (
        lambda folder: [write(folder, f"rgb{i}", np.zeros((6, 8))) for i in range(3)],
        r"None of the 4 depth maps in .*annotations has a depth",
    ),
    "missing": (
        lambda folder: (folder / "annotations/rgb2.png").unlink(),
        r"images/rgb2.jpg has no depth map: expected .*annotations/rgb2.png",
    ),
    "float": (
        move("annotations/rgb2.png", "annotations/rgb2.npy"),
        r"annotations/rgb2.npy has a format that is not supported: expected is rgb2.png, 16-bit",
    ),
    "nan": (save(NAN, kind="TIFF"), r"rgb1.png holds floating-point numbers, 6 of them NaN or infinite"),
    "corrupt image": (cut("images/rgb0.jpg"), r"images/rgb0.jpg .* cannot be read"),
    "corrupt depth": (cut("annotations/rgb0.png"), r"annotations/rgb0.png .* cannot be read"),
    "empty": (lambda folder: [p.unlink() for p in (folder / "images").iterdir()], r"images contains no images"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_bad_data_is_one_clear_paragraph(folder: Path, what: str) -> None:
    check(folder)  # remembered as good, until a file changes
    breaks, message = BROKEN[what]
    breaks(folder)

    with pytest.raises(UserError, match=message) as raised:
        check(folder)
    assert "\n" not in str(raised.value)


def test_some_pixels_beyond_the_range_are_no_mistake(folder: Path) -> None:
    values = np.full((6, 8), 9000, np.uint16)
    values[:3] = 20000
    save(values)(folder)
    check(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"depth.json is not JSON"),
        ("[1]", r"depth.json holds a list"),
        ('{"scale": 0}', r"has scale = 0. Expected is"),
        ('{"scale": "mm"}', r'has scale = "mm"'),
        ('{"max_depth": NaN}', r"has max_depth = NaN"),
        ('{"max_dept": 5}', r"'max_dept'. Did you mean max_depth"),
    ],
)
def test_bad_calibration_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "depth.json").write_text(content)

    with pytest.raises(UserError, match=message):
        check(folder, FOLDER_LAYOUT)


def test_calibration_overrides_scale_and_range(folder: Path) -> None:
    save(np.full((6, 8), 30000, np.uint16))(folder)
    with pytest.raises(UserError, match="beyond 10 m"):
        check(folder, FOLDER_LAYOUT)
    (folder / "depth.json").write_text(json.dumps({"scale": 5000, "max_depth": 8}))
    check(folder, FOLDER_LAYOUT)

    found = data.calibrated(FOLDER_LAYOUT, folder)
    assert (found.scale, found.max_depth) == (5000, 8)
    assert data.calibrated(NYU_LAYOUT, folder) == NYU_LAYOUT


def test_kitti_images_must_hold_the_benchmarks_crop(tmp_path: Path) -> None:
    write(tmp_path, "a", np.full((352, 1215), 9.0), 256)

    with pytest.raises(UserError, match=r"a.jpg measures 1215x352, and 1216x352 are cropped"):
        check(tmp_path, KITTI_LAYOUT)


def test_data_set_is_what_was_checked(folder: Path) -> None:
    dataset = data.DepthPairs(
        data_root=str(folder),
        data_prefix={"img_path": "images", "depth_map_path": "annotations"},
        pipeline=[{"type": "mmseg.LoadDepthAnnotation", "depth_rescale_factor": 1 / 1000}],
    )
    both = data.pairs(folder / "images", folder / "annotations")

    assert [(Path(d["img_path"]), Path(d["depth_map_path"])) for d in dataset] == both
    np.testing.assert_allclose(dataset[1]["gt_depth_map"], np.linspace(0, 9, 48).reshape(6, 8), atol=5e-4)


def test_kittis_crop_is_the_middle_of_the_lower_edge() -> None:
    """Of 375x1242 pixels: from row 23 and column 13, in the image and then in its depth."""
    rows, columns = np.mgrid[:375, :1242].astype(np.float32)
    results: dict[str, Any] = {"img": rows, "gt_depth_map": columns}
    for key in ("img", "gt_depth_map"):
        results = data.LowerCentreCrop((352, 1216), [key]).transform(results)

    assert results["img"].shape == results["gt_depth_map"].shape == results["ori_shape"]
    assert results["ori_shape"] == (352, 1216)
    assert (results["img"][0, 0], results["gt_depth_map"][0, 0]) == (23, 13)


def jitter(kind: str, image: np.ndarray, seed: int) -> np.ndarray:
    np.random.seed(seed)
    return np.asarray(getattr(data.ColourJitter, kind)(image))


@pytest.mark.parametrize("seed", range(5))
def test_colours_change_by_the_formulas(seed: int) -> None:
    grey = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 2, 3))
    np.random.seed(seed)
    factor, shift = np.random.uniform((0.8, -0.2), (1.2, 0.2))
    expected = np.clip(grey * factor + 255 * shift, 0, 255)
    assert abs(jitter("_contrast", grey, seed) - expected).max() <= 0.5 + 1e-9

    np.random.seed(seed)
    gamma = np.random.uniform(0.8, 1.2)
    expected = 255 * (grey / 255) ** gamma
    assert abs(jitter("_gamma", grey, seed) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_hue_turns_and_saturation_and_value_shift(seed: int) -> None:
    hsv = np.random.default_rng(seed).integers((0, 60, 80), (180, 200, 220), (9, 9, 3), np.uint8)
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    np.random.seed(seed)
    shift = np.rint(np.random.uniform((-20, -30, -20), (20, 30, 20)))
    expected = cv2.cvtColor(image, cv2.COLOR_BGR2HSV) + shift
    expected[..., 0] %= 180
    expected = cv2.cvtColor(np.clip(expected, 0, 255).astype(np.uint8), cv2.COLOR_HSV2BGR)

    assert np.array_equal(jitter("_hue", image, seed), expected)


def test_half_of_the_images_keep_their_colours_in_each_respect() -> None:
    np.random.seed(0)
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    changed = [data.ColourJitter().transform({"img": image})["img"] for _ in range(400)]

    assert 30 < sum(np.array_equal(image, c) for c in changed) < 80  # 1 in 8
