"""Labels against the geometry: occlusion by counting, keypoints on the mask, tight boxes."""

import numpy as np
import pytest
from scenes_by_hand import PLAIN, scene_of, thing

from bench.scenes import videos
from bench.scenes.labels import (
    coco_annotations,
    crop_window,
    keypoint_triplets,
    millimetres,
    projected,
    tight_box,
    visible_fraction,
)
from bench.scenes.layout import clearance, scene
from bench.scenes.render import Picture, render
from bench.scenes.solids import Assembly
from bench.scenes.things import CATEGORIES

SIZE = 128


def _box(centre, half):
    a = Assembly()
    a.box(centre, half, PLAIN)
    return thing("box", a)


def test_occlusion_is_what_a_nearer_box_covers():
    # At 5 m one pixel is 5/128 m: the front face at z = 5 spans 40 x 40 pixels; the nearer box
    # (front face at 3 m) covers its left quarter exactly.
    pixel = 5.0 / 128
    far = _box((0.0, 1.0, 5.5), (20 * pixel, 20 * pixel, 0.5))
    near_pixel = 3.0 / 128
    near = _box((-30 * near_pixel, 1.0, 3.005), (20 * near_pixel, 30 * near_pixel, 0.005))
    picture = render([scene_of(far, near, ground=-50.0)], SIZE)[0]
    assert picture.alone[0].sum() == 1600
    assert (picture.thing == 0).sum() == 1200
    assert visible_fraction(picture, 0) == 0.75
    assert visible_fraction(picture, 1) == 1.0
    assert tight_box(picture.alone[0]) == (44, 44, 40, 40)
    assert tight_box(picture.thing == 0) == (54, 44, 30, 40)
    first = coco_annotations(scene_of(far, near, ground=-50.0), picture)[0]
    assert (first["area"], first["visible_fraction"]) == (1200, 0.75)
    assert first["amodal_bbox"] == [44, 44, 40, 40]
    assert first["distance"] == pytest.approx(5.0, abs=1e-3)


def test_a_shadow_falls_straight_below_under_a_light_overhead():
    a = Assembly()
    a.sphere((0.0, 0.9, 4.0), 0.3, PLAIN)
    lit = render([scene_of(_box((30.0, 0.5, 40.0), (0.1, 0.1, 0.1)))], SIZE, smooth=False)[0].rgb
    dark = render([scene_of(thing("ball", a))], SIZE, smooth=False)[0]
    ground = dark.semantic == 1
    _, x = np.mgrid[:SIZE, :SIZE]
    z = dark.depth
    east = (x + 0.5 - SIZE / 2) / SIZE * z
    inside = np.hypot(east, z - 4.0) < 0.3
    darker = dark.rgb.astype(int).sum(-1) < lit.astype(int).sum(-1) - 60
    assert (inside & ground).sum() > 30
    rim = np.abs(np.hypot(east, z - 4.0) - 0.3) < 0.06
    assert np.array_equal(darker & ground & ~rim, inside & ground & ~rim)


@pytest.fixture(scope="module")
def drawn() -> list[tuple]:
    scenes = [scene(5, "train", k) for k in range(16)]
    return list(zip(scenes, render(scenes, SIZE), strict=True))


def test_visible_keypoints_lie_on_the_puppet_and_hidden_ones_do_not_all(drawn):
    seen = {0: 0, 1: 0, 2: 0}
    for made, picture in drawn:
        for index, item in enumerate(made.things):
            if item.keypoints is None:
                continue
            triplets = keypoint_triplets(made, picture, index)
            where = projected(item.keypoints, made.camera, SIZE)
            for k in range(17):
                x, y, v = triplets[3 * k : 3 * k + 3]
                seen[int(v)] += 1
                inside = (where[k, :2] >= 0).all() and (where[k, :2] < SIZE).all()
                assert (v > 0) == inside
                if v == 0:
                    assert (x, y) == (0, 0)
                if v == 2:
                    assert picture.thing[int(y), int(x)] == index
                    # The surface there is about the joint, not half a body nearer.
                    assert abs(where[k, 2] - picture.depth[int(y), int(x)]) < 0.3
    assert seen[0] > 0
    assert seen[1] > 50
    assert seen[2] > 150


def test_a_keypoint_behind_a_wall_is_labelled_but_not_visible():
    made = scene(5, "train", 0)
    subject = made.things[0]
    eye, ahead = np.array(made.camera.eye), made.camera.rotation[2]
    centre = tuple(eye + 0.5 * ahead)
    a = Assembly()
    a.box(centre, (2.0, 2.0, 0.02), PLAIN, tuple(map(tuple, made.camera.rotation)))
    from dataclasses import replace

    hidden = replace(made, things=(subject, thing("box", a)))
    picture = render([hidden], SIZE)[0]
    visibility = keypoint_triplets(hidden, picture, 0)[2::3]
    assert visibility.count(1) >= 12
    assert visibility.count(2) == 0
    assert visible_fraction(picture, 0) == 0.0


def test_masks_partition_what_would_show_alone(drawn):
    for made, picture in drawn:
        for index in range(len(made.things)):
            visible = picture.thing == index
            assert not (visible & ~picture.alone[index]).any()
            x, y, width, height = tight_box(visible)
            if visible.any():
                inside = visible[y : y + height, x : x + width]
                assert inside.sum() == visible.sum()
                assert inside[0].any()
                assert inside[-1].any()
                assert inside[:, 0].any()
                assert inside[:, -1].any()


def test_semantic_values_follow_the_things(drawn):
    for made, picture in drawn:
        assert picture.semantic.max() <= 8
        assert ((picture.semantic == 0) == (picture.depth == 0)).all()
        for index, item in enumerate(made.things):
            assert (picture.semantic[picture.thing == index] == item.semantic).all()


def test_the_subject_is_large_and_mostly_in_view():
    scenes = [scene(0, "val", k) for k in range(40)]
    heights, fractions = [], []
    for made, picture in zip(scenes, render(scenes, SIZE, smooth=False), strict=True):
        heights.append(tight_box(picture.thing == made.subject)[3])
        fractions.append(visible_fraction(picture, made.subject))
    assert min(heights) >= 60
    assert min(fractions) > 0.5
    assert np.mean(fractions) > 0.93


def test_everything_stands_and_moves_inside_its_room():
    scenes = [scene(0, "train", k) for k in range(60)]
    clips = [videos.clip(0, "train", k) for k in range(24)]
    scenes += [made.scene(t / 8) for made in clips for t in range(8)]
    rooms = [made for made in scenes if made.surroundings.kind == "room"]
    assert 0.3 < len(rooms) / len(scenes) < 0.7
    for made in rooms:
        for item in made.things:
            if item.category in CATEGORIES:
                assert clearance(made.surroundings, *item.place) > 0.0


def test_depth_in_millimetres_is_rounded_and_zero_beyond_the_range():
    depth = np.array([[0.0, 1.2344, 1.2346, 65.5349, 65.536, 1e4]], np.float32)
    assert millimetres(depth).tolist() == [[0, 1234, 1235, 65535, 0, 0]]


@pytest.mark.parametrize("box", [(0, 0, 10, 100), (100, 5, 28, 30), (3, 100, 20, 28), (0, 0, 128, 9)])
def test_a_crop_is_a_square_in_the_image_that_holds_the_box(box):
    x, y, side = crop_window(box, SIZE)
    assert 0 <= x <= box[0]
    assert 0 <= y <= box[1]
    assert box[0] + box[2] <= x + side <= SIZE
    assert box[1] + box[3] <= y + side <= SIZE


def test_an_empty_picture_has_no_annotations():
    a = Assembly()
    a.sphere((0.0, 1.0, -5.0), 0.3, PLAIN)
    behind = scene_of(thing("ball", a))
    picture = render([behind], SIZE)[0]
    assert isinstance(picture, Picture)
    assert coco_annotations(behind, picture) == []
    assert visible_fraction(picture, 0) == 0.0
