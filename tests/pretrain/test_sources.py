"""Where images come from: layouts, labels, few images, fingerprints, the embedded world's occluders."""

import os
from pathlib import Path

import numpy as np
import pytest
from picture_folders import folder, picture

from bench.errors import UserError
from bench.scenes import layout
from bench.scenes.labels import visible_fraction
from bench.scenes.render import render
from bench.scenes.things import CATEGORIES
from bench.scenes.world import World
from pretrain.data import CropBatches, loader
from pretrain.sources import ImageSource, hides, source

WORLD = World(train=10, val=10, videos=4, frames=2, swaps=1, size=64)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, ImageSource]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {name: source(name, world=WORLD) for name in ("scenes", "species")}


def names(found: ImageSource) -> list[str]:
    return [Path(found.storage.where(int(k))).name for k in found.chosen]


def test_a_flat_folder_has_images_without_labels(tmp_path):
    folder(tmp_path / "photos", 3)
    (tmp_path / "photos/.hidden.png").write_bytes(b"")
    (tmp_path / "photos/classes.csv").write_text("0,cat\n")
    picture(7).save(tmp_path / "photos/UPPER.JPEG")
    found = source(tmp_path / "photos")
    assert names(found) == ["000.png", "001.png", "002.png", "UPPER.JPEG"]
    assert found.labels is None
    assert found.classes == ()
    assert found.name == "photos"


def test_class_folders_give_labels_and_may_be_deep(tmp_path):
    folder(tmp_path / "b/deep", 2)
    folder(tmp_path / "a", 1)
    found = source(tmp_path)
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [0, 1, 1]


def test_a_folder_with_images_both_in_and_out_of_folders_is_unlabelled(tmp_path):
    folder(tmp_path / "a", 1)
    folder(tmp_path / "b", 1)
    folder(tmp_path, 1)
    assert source(tmp_path).labels is None


def test_imagenets_layout_is_its_train_split(tmp_path):
    folder(tmp_path / "train", 6, classes=3)
    folder(tmp_path / "val", 3, classes=3)
    found = source(tmp_path)
    assert len(found) == 6
    assert found.classes == ("class0", "class1", "class2")


def test_a_name_is_looked_up_below_the_data_root(tmp_path):
    folder(tmp_path / "pets", 2)
    assert len(source("pets", data_root=tmp_path)) == 2
    with pytest.raises(UserError, match="Did you mean pets"):
        source("petz", data_root=tmp_path)
    with pytest.raises(UserError, match="Did you mean scenes"):
        source("scene")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="contains no image"):
        source(tmp_path)


def test_few_images_are_nested_and_make_an_epoch_as_long_as_all(tmp_path):
    folder(tmp_path, 40)
    sets = {n: set(source(tmp_path, images=n, subset_seed=5).chosen.tolist()) for n in (1, 10, 40)}
    assert {n: len(chosen) for n, chosen in sets.items()} == {1: 1, 10: 10, 40: 40}
    assert sets[1] < sets[10] < sets[40]
    assert source(tmp_path, images=10).images_per_epoch == 40
    assert len({source(tmp_path, images=1, subset_seed=s).chosen[0] for s in range(9)}) > 3
    for images in (0, 41, -1):
        with pytest.raises(UserError, match=f"--images {images} is not possible"):
            source(tmp_path, images=images)


def test_the_fingerprint_is_of_the_chosen_images(tmp_path):
    folder(tmp_path, 10)
    few = {k: source(tmp_path, images=3, subset_seed=k).fingerprint for k in (0, 1)}
    assert len({source(tmp_path).fingerprint, *few.values()}) == 3
    assert source(tmp_path, images=3).fingerprint == few[0]
    picture(99).save(tmp_path / names(source(tmp_path, images=3))[0])
    assert source(tmp_path, images=3).fingerprint != few[0]


def test_the_worlds_fingerprint_follows_from_its_recipe(world):
    assert len({found.fingerprint for found in world.values()}) == 2
    assert world["scenes"].fingerprint == source("scenes", world=WORLD).fingerprint


def test_the_worlds_images_are_labelled_by_the_subjects_species(world):
    for found in world.values():
        assert len(found) == 10
        assert len(found.classes) == 10
        assert sorted(found.labels.tolist()) == list(range(10))
    species = world["species"]
    for k in range(10):
        assert species.classes[species.labels[k]] == Path(species.storage.where(k)).parent.name


def test_the_worlds_occluders_agree_with_what_the_ray_caster_saw(world):
    """It knows what each thing would show alone; the annotations have but boxes of that."""
    scenes = [layout.scene(WORLD.seed, "train", k) for k in range(10)]
    agreed = seen = 0
    for k, (scene, view) in enumerate(zip(scenes, render(scenes, WORLD.size), strict=True)):
        things = [i for i, thing in enumerate(scene.things) if thing.category in CATEGORIES]
        things = [i for i in things if (view.thing == i).sum() >= 16]
        expected = np.zeros((WORLD.size, WORLD.size), bool)
        for a in things:
            hidden = [b for b in things if b != a and visible_fraction(view, b) < 1]
            if any((view.alone[b] & (view.thing == a)).any() for b in hidden):
                expected |= np.asarray(view.thing == a)
        found = world["scenes"].occluders(k)
        assert found.shape == expected.shape
        agreed += (found & expected).sum()
        seen += (found | expected).sum()
    assert seen > 0
    assert agreed / seen > 0.9


def test_the_crops_occluders_are_those_of_the_whole_image(world):
    crops = {name: k for k, name in enumerate(names(world["species"]))}
    for k, name in enumerate(names(world["scenes"])):
        whole, crop = world["scenes"].occluders(k), world["species"].occluders(crops[name])
        assert crop.sum() <= whole.sum()
        width, height = crop.shape[::-1]
        assert width <= WORLD.size
        assert height <= WORLD.size


DATA = Path(os.environ.get("BENCH_DATA") or Path(__file__).parents[3] / "shared/data")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "images", "classes"), [("imagenet-samples", 1000, 0), ("tiny-imagenet-200", 3200, 200)]
)
def test_real_photographs_are_all_usable(name, images, classes):
    if not (DATA / name).is_dir():
        pytest.skip(f"no real images: {DATA / name} does not exist (set BENCH_DATA)")
    found = source(name, data_root=DATA)
    assert (len(found), len(found.classes)) == (images, classes)
    batches = CropBatches(found, batch_size=100, img_size=32, seed=0)
    for _ in loader(batches, iterations=images // 100):
        pass
    assert not found.skipped


def thing(box: tuple[int, int, int, int], distance: float, visible: float) -> dict[str, object]:
    from bench.scenes.labels import run_lengths

    x, y, width, height = box
    mask = np.zeros((20, 20), bool)
    mask[y : y + height, x : x + width] = True
    return {
        "segmentation": run_lengths(mask),
        "amodal_bbox": list(box),
        "distance": distance,
        "visible_fraction": visible,
    }


def test_a_thing_hides_another_that_is_farther_partly_hidden_and_behind_it():
    behind = thing((5, 5, 10, 10), 4.0, 0.5)
    assert hides(thing((0, 0, 8, 8), 2.0, 1.0), behind)
    assert not hides(thing((0, 0, 8, 8), 6.0, 1.0), behind), "farther away"
    assert not hides(thing((0, 0, 4, 4), 2.0, 1.0), behind), "beside it"
    assert not hides(thing((0, 0, 8, 8), 2.0, 1.0), thing((5, 5, 10, 10), 4.0, 1.0)), "all seen"
