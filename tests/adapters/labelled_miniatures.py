"""Each data set of labelled images in its official layout, with three classes and a few tiny images.

Writers return what a loader must find: (path below the data set's folder, label) by split.
"""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from adapters.classification.image_sets import entries
from adapters.classification.image_sets.labelled import LabelledImages
from adapters.classification.image_sets.readers import PET_CLASSES, VOC_CLASSES

Found = Mapping[str, Sequence[tuple[str, object]]]
CHECKED = ("cifar", "flowers102", "places365")  # torchvision compares their files with published MD5s


def picture(path: Path, label: int, seed: int) -> None:
    """Noise with red, green or blue raised: a linear layer tells the labels apart."""
    pixels = np.random.default_rng([label, seed]).integers(0, 100, (32, 32, 3))
    pixels[..., label % 3] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)


def _pictures(root: Path, found: Found) -> Found:
    for listed in found.values():
        for seed, (name, label) in enumerate(listed):
            picture(root / name, int(label), seed)  # type: ignore[call-overload]
    return {split: sorted(listed) for split, listed in found.items()}


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _plan(
    name: Callable[[int, str, int], str], counts: Mapping[str, int], labels: Sequence[int]
) -> dict[str, list[tuple[str, object]]]:
    return {
        split: [(name(label, split, k), label) for label in labels for k in range(count)]
        for split, count in counts.items()
    }


def cub(root: Path) -> Found:
    classes = ["001.Ant_Bird", "002.Bee_eater", "003.Cat_bird"]
    found = _plan(
        lambda c, s, k: f"images/{classes[c]}/{classes[c][4:]}_{s}_{k}.jpg", {"train": 4, "test": 3}, (0, 1, 2)
    )
    rows = [(p, c, s == "train") for s, listed in found.items() for p, c in listed]
    _write(root / "images.txt", [f"{i} {p[7:]}" for i, (p, *_) in enumerate(rows, 1)])
    _write(root / "image_class_labels.txt", [f"{i} {c + 1}" for i, (_, c, _) in enumerate(rows, 1)])  # type: ignore[operator]
    _write(root / "train_test_split.txt", [f"{i} {t:d}" for i, (*_, t) in enumerate(rows, 1)])
    _write(root / "classes.txt", [f"{i} {name}" for i, name in enumerate(classes, 1)])
    return _pictures(root, found)


def pets(root: Path) -> Found:
    found = _plan(lambda c, s, k: f"images/{PET_CLASSES[c]}_{s == 'test':d}{k}.jpg", {"train": 4, "test": 3}, (0, 1, 5))
    for split, listed in found.items():
        name = {"train": "trainval", "test": "test"}[split]
        rows = [f"{Path(p).stem} {c + 1} 1 1" for p, c in listed]  # type: ignore[operator]
        _write(root / f"annotations/{name}.txt", ["#Image CLASS-ID SPECIES BREED ID", *rows])
    return _pictures(root, found)


def sun397(root: Path) -> Found:
    classes = ["/a/abbey", "/a/airport/outdoor", "/z/zoo"]
    found = _plan(lambda c, s, k: f"{classes[c][1:]}/sun_{s}{k}.jpg", {"train": 4, "test": 3}, range(3))
    _write(root / "ClassName.txt", classes)
    for split, name in (("train", "Training_01"), ("test", "Testing_01")):
        _write(root / f"{name}.txt", [f"/{p}" for p, _ in found[split]])
    return _pictures(root, found)


def voc2007(root: Path) -> Found:
    """Image k of a split shows class k % 3, the next one too where k is even; the one after that is hard to see."""
    found: dict[str, list[tuple[str, object]]] = {}
    for start, (split, count) in enumerate({"train": 8, "val": 6, "test": 9}.items()):
        found[split] = []
        for k in range(count):
            row = [-1] * len(VOC_CLASSES)
            row[k % 3] = 1
            row[(k + 1) % 3] = 1 if k % 2 == 0 else -1
            row[(k + 2) % 3] = 0 if k % 4 == 1 else -1
            name = f"JPEGImages/{start}{k:05d}.jpg"
            picture(root / name, k % 3, k)
            found[split].append((name, tuple(row)))
        for c, name in enumerate(VOC_CLASSES):
            rows = [f"{Path(p).stem} {y[c]:2d}" for p, y in found[split]]  # type: ignore[index]
            _write(root / f"ImageSets/Main/{name}_{split}.txt", rows)
    return found


def inaturalist2018(root: Path) -> Found:
    found = _plan(lambda c, s, k: f"train_val2018/Aves/{c}/{s}{k}.jpg", {"train": 4, "val": 3}, range(3))
    categories = [{"id": c, "name": str(c)} for c in (2, 0, 1)]
    for split, listed in found.items():
        ids = {p: 100 + i for i, (p, _) in enumerate(listed)}
        images = [{"id": i, "file_name": p} for p, i in ids.items()]
        annotations = [{"id": i, "image_id": ids[p], "category_id": c} for i, (p, c) in enumerate(listed)]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        _write(root / f"{split}2018.json", [text])
    return _pictures(root, found)


def cog(root: Path) -> Found:
    wnids = ["n01", "n02", "n03"]
    found = _plan(lambda c, s, k: f"{wnids[c]}/{wnids[c]}_{s}{k}.JPEG", {"train": 4, "test": 3}, range(3))
    root.mkdir(parents=True, exist_ok=True)
    levels = [[f"x{k}"] for k in range(5)]
    levels[1] = wnids[::-1]
    split = {
        wnid: {s: np.array([f"/{p}" for p, k in listed if k == c]) for s, listed in found.items()}
        for c, wnid in enumerate(wnids)
    }
    (root / "cog_levels_mapping_file.pkl").write_bytes(pickle.dumps(levels))
    (root / "cog_concepts_split_file.pkl").write_bytes(pickle.dumps(split))
    return _pictures(root, found)


def imagenet(root: Path) -> Found:
    wnids = ["n01440764", "n01443537", "n01484850"]
    counts = {"train": 4, "val": 3}
    return _pictures(root, _plan(lambda c, s, k: f"{s}/{wnids[c]}/{wnids[c]}_{k}.JPEG", counts, range(3)))


def caltech101(root: Path) -> Found:
    """33 images a class: 30 to train on."""
    from hashlib import sha256

    classes = ["BACKGROUND_Google", "accordion", "wrench"]
    found: dict[str, list[tuple[str, object]]] = {"train": [], "test": []}
    for c, name in enumerate(classes):
        names = [f"101_ObjectCategories/{name}/image_{k:04d}.jpg" for k in range(1, 34)]
        names.sort(key=lambda p: sha256(p.encode()).hexdigest())
        found["train"] += [(p, c) for p in names[:30]]
        found["test"] += [(p, c) for p in names[30:]]
    return _pictures(root, found)


def cars(root: Path) -> Found:
    found = _plan(lambda c, s, k: f"cars_{s}/{c}{k:04d}.jpg", {"train": 4, "test": 3}, range(3))
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array(["A", "B", "C"], object)})
    kinds = [("fname", object), ("class", int)]
    for split, name in (("train", "devkit/cars_train_annos"), ("test", "cars_test_annos_withlabels")):
        rows = np.array([(Path(p).name, c + 1) for p, c in found[split]], kinds)  # type: ignore[operator]
        savemat(root / f"{name}.mat", {"annotations": rows})
    return _pictures(root, found)


def flowers(root: Path) -> Found:
    counts = {"train": 2, "val": 2, "test": 3}
    numbers = iter(range(1, 100))
    found = _plan(lambda c, s, k: f"jpg/image_{next(numbers):05d}.jpg", counts, range(3))
    labels = {int(Path(p).stem[6:]): c for listed in found.values() for p, c in listed}
    root.mkdir(parents=True)
    savemat(root / "imagelabels.mat", {"labels": [labels[k] + 1 for k in sorted(labels)]})  # type: ignore[operator]
    names = {"train": "trnid", "val": "valid", "test": "tstid"}
    sets = {names[s]: [int(Path(p).stem[6:]) for p, _ in listed] for s, listed in found.items()}
    savemat(root / "setid.mat", sets)
    return _pictures(root, found)


def aircraft(root: Path) -> Found:
    classes = ["707-320", "A330 MRTT", "Cessna 172"]
    counts = {"train": 3, "val": 2, "test": 3}
    found = _plan(lambda c, s, k: f"data/images/{c}{len(s)}{k:05d}.jpg", counts, range(3))
    _write(root / "data/variants.txt", classes)
    for split, listed in found.items():
        rows = [f"{Path(p).stem} {classes[c]}" for p, c in listed]  # type: ignore[call-overload]
        _write(root / f"data/images_variant_{split}.txt", rows)
    return _pictures(root, found)


def food(root: Path) -> Found:
    classes = ["apple_pie", "bibimbap", "waffles"]
    found = _plan(lambda c, s, k: f"images/{classes[c]}/{len(s)}{k}.jpg", {"train": 4, "test": 3}, range(3))
    for split, listed in found.items():
        lists = {n: [p[7:-4] for p, k in listed if k == c] for c, n in enumerate(classes)}
        _write(root / f"meta/{split}.json", [json.dumps(lists)])
    return _pictures(root, found)


def dtd(root: Path) -> Found:
    """Split 2 has the train and the val images of split 1 the other way round."""
    classes = ["banded", "blotchy", "zigzagged"]
    counts = {"train": 3, "val": 3, "test": 3}
    found = _plan(lambda c, s, k: f"images/{classes[c]}/{classes[c]}_{s}{k}.jpg", counts, range(3))
    for number, order in ((1, ("train", "val", "test")), (2, ("val", "train", "test"))):
        for split, source in zip(("train", "val", "test"), order, strict=True):
            _write(root / f"labels/{split}{number}.txt", [p[7:] for p, _ in found[source]])
    return _pictures(root, found)


def places365(root: Path) -> Found:
    classes = ["/a/airfield", "/a/apartment_building/outdoor", "/z/zen_garden"]
    train = _plan(lambda c, s, k: f"data_256_standard{classes[c]}/{k:08d}.jpg", {"train": 4}, range(3))
    val = _plan(lambda c, s, k: f"val_256/Places365_val_{c}{k:07d}.jpg", {"val": 3}, range(3))
    _write(root / "categories_places365.txt", [f"{n} {c}" for c, n in enumerate(classes)])
    rows = [f"{p.removeprefix('data_256_standard')} {c}" for p, c in train["train"]]
    _write(root / "places365_train_standard.txt", rows)
    _write(root / "places365_val.txt", [f"{Path(p).name} {c}" for p, c in val["val"]])
    return _pictures(root, train | val)


def _cifar(root: Path, files: Mapping[str, int], meta: str, kind: str) -> Found:
    root.mkdir(parents=True)
    found: dict[str, list[tuple[str, object]]] = {"train": [], "test": []}
    for seed, (name, count) in enumerate(files.items()):
        labels = [k % 3 for k in range(count)]
        rng = np.random.default_rng(seed)
        data = rng.integers(0, 100, (count, 3, 1024))
        data[np.arange(count), labels] += 150
        batch = {"data": data.reshape(count, -1).astype(np.uint8), f"{kind}labels": labels}
        (root / name).write_bytes(pickle.dumps(batch))
        found["test" if "test" in name else "train"] += [("", label) for label in labels]
    names = {f"{kind or 'label_'}{'label_' * bool(kind)}names": ["a", "b", "c"]}
    (root / meta).write_bytes(pickle.dumps(names))
    return found


def cifar10(root: Path) -> Found:
    files = {f"data_batch_{k}": 3 for k in range(1, 6)} | {"test_batch": 9}
    return _cifar(root, files, "batches.meta", "")


def cifar100(root: Path) -> Found:
    return _cifar(root, {"train": 15, "test": 9}, "meta", "fine_")


MINIATURES: dict[str, tuple[LabelledImages, Callable[[Path], Found]]] = {
    entry.name: (entry, write)
    for entry, write in (
        (entries.IMAGENET, imagenet),
        (entries.INATURALIST, inaturalist2018),
        (entries.PLACES, places365),
        (entries.cog(2), cog),
        (entries.CUB, cub),
        (entries.CARS, cars),
        (entries.AIRCRAFT, aircraft),
        (entries.FLOWERS, flowers),
        (entries.PETS, pets),
        (entries.FOOD, food),
        (entries.dtd(1), dtd),
        (entries.SUN, sun397),
        (entries.CALTECH, caltech101),
        (entries.VOC, voc2007),
        (entries.CIFAR10, cifar10),
        (entries.CIFAR100, cifar100),
    )
}
