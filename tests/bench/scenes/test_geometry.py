"""What a ray hits, against closed forms and an independent search along the ray."""

import numpy as np
import pytest
import torch
from scenes_by_hand import PLAIN, rays, scene_of, thing

from bench.scenes.render import INFINITY, hit_box, hit_capsule, hit_sphere, render
from bench.scenes.solids import Assembly
from bench.scenes.stage import rectangles

SIZE = 64


def _random_rays(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(count, 3))
    origin *= 4.0 / np.linalg.norm(origin, axis=1, keepdims=True)
    aim = rng.uniform(-1.0, 1.0, (count, 3))
    return origin, (aim - origin) / np.linalg.norm(aim - origin, axis=1, keepdims=True)


def _march(distance, origin, direction) -> np.ndarray:
    """Sphere tracing in float64: steps of the distance to the surface; inf on a miss."""
    t = np.zeros(len(origin))
    for _ in range(3000):
        t = np.minimum(t + distance(origin + t[:, None] * direction), 100.0)
    return np.where(t < 50.0, t, np.inf)


def _to_capsule(p: np.ndarray) -> np.ndarray:
    axis = np.stack([0 * p[:, 1], np.clip(p[:, 1], -0.7, 0.7), 0 * p[:, 1]], axis=1)
    return np.linalg.norm(p - axis, axis=1) - 0.4


def _to_box(p: np.ndarray) -> np.ndarray:
    q = np.abs(p) - np.array([0.6, 0.3, 0.8])
    return np.linalg.norm(np.maximum(q, 0.0), axis=1) + np.minimum(q.max(axis=1), 0.0)


def _to_sphere(p: np.ndarray) -> np.ndarray:
    return np.linalg.norm(p, axis=1) - 0.9


@pytest.mark.parametrize(
    ("hit", "size", "distance"),
    [
        (hit_sphere, (0.9, 0.0, 0.0), _to_sphere),
        (hit_capsule, (0.4, 0.7, 0.0), _to_capsule),
        (hit_box, (0.6, 0.3, 0.8), _to_box),
    ],
)
def test_hits_agree_with_a_march_along_the_distance_field(hit, size, distance):
    origin, direction = _random_rays(2000)
    o, d = (tuple(torch.from_numpy(a.T.astype(np.float32))) for a in (origin, direction))
    t = hit(o, d, tuple(torch.full((2000,), s) for s in size)).double().numpy()
    t[t >= INFINITY] = np.inf
    expected = _march(distance, origin, direction)
    both = np.isfinite(t) & np.isfinite(expected)
    assert 200 < both.sum() < 1900
    assert (np.isfinite(t) != np.isfinite(expected)).mean() < 0.005  # grazing rays
    np.testing.assert_allclose(t[both], expected[both], atol=5e-3)
    assert np.median(np.abs(t[both] - expected[both])) < 1e-5


def test_the_depth_of_a_sphere_is_the_closed_form_at_every_pixel():
    a = Assembly()
    a.sphere((0.3, 1.2, 4.0), 0.9, PLAIN)
    picture = render([scene_of(thing("ball", a), ground=-50.0)], SIZE)[0]
    x, y = rays(SIZE)
    d = np.stack([x, -y, np.ones_like(x)], axis=-1)  # the world's y points up
    c = np.array([0.3, 0.2, 4.0])
    dd, dc = (d * d).sum(-1), (d * c).sum(-1)
    disc = dc**2 - dd * (c @ c - 0.81)
    expected = np.where(disc > 0, (dc - np.sqrt(np.maximum(disc, 0))) / dd, 0)
    assert np.array_equal(picture.thing == 0, disc > 0)
    np.testing.assert_allclose(picture.depth[disc > 0], expected[disc > 0], atol=2e-5)


def test_the_depth_of_the_ground_is_the_eye_height_over_the_slope():
    a = Assembly()
    a.sphere((50.0, 0.0, 60.0), 0.1, PLAIN)
    picture = render([scene_of(thing("ball", a))], SIZE)[0]
    _, y = rays(SIZE)
    below = y > 0
    np.testing.assert_allclose(picture.depth[below], 1.0 / y[below], rtol=1e-5)
    assert (picture.depth[~below] == 0).all()


def test_no_primitive_shows_outside_its_rectangle():
    rng = np.random.default_rng(1)
    for _ in range(20):
        p, q = rng.uniform([-1, -1, 2], [1, 1, 5], (2, 3))
        a = Assembly()
        a.capsule(tuple(p), tuple(q), 0.2, PLAIN)
        solid = a.solid()
        x, y, width, height = rectangles(solid, SIZE, SIZE)[0]
        xs, ys = rays(SIZE)
        d = np.stack([xs, ys, np.ones_like(xs)], -1).reshape(-1, 3)
        t = np.linspace(0.5, 6.0, 400)
        points = d[:, None] * t[None, :, None]
        along = np.clip(((points - p) @ (q - p)) / ((q - p) @ (q - p)), 0, 1)
        near = np.linalg.norm(points - p - along[..., None] * (q - p), axis=-1).min(1) < 0.2
        rows, columns = np.nonzero(near.reshape(SIZE, SIZE))
        assert len(rows)
        assert columns.min() >= x
        assert columns.max() < x + width
        assert rows.min() >= y
        assert rows.max() < y + height
        assert width * height < 4 * SIZE * SIZE / 5
