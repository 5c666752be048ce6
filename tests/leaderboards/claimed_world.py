"""Hand-made records of a whole suite: all scores as the papers claim, or with one score against a claim."""

import dataclasses
import json
import math

from bench.files import digest

SPECIES = "classification/scenes"
TOP1 = {"scratch": 20, "mae": 40, "simmim": 42, "supervised": 35, "moco": 30}
TOP1 |= {"r-mae": 41, "c-mae": 39, "mae, 1 image": 25, "mae, 10 images": 28, "mae, 100 images": 30}
BLOCKS = 12


def by_block(first, later, last):
    """Return an attention metric's values for the first quarter of the blocks, the middle, and the last quarter."""
    return [first] * 3 + [later] * 6 + [last] * 3


def attends(distances, entropies, divergences):
    named = {"distance": distances, "entropy": entropies, "KL": divergences}
    headlines = {name: sum(values) / BLOCKS for name, values in named.items()}
    single = {f"{name}/{k}": v for name, values in named.items() for k, v in enumerate(values)}
    return {**headlines, **single}


ATTENTION = {
    "mae": attends(by_block(60, 60, 60), by_block(3, 3, 3), by_block(2, 2, 2)),
    "simmim": attends(by_block(62, 62, 62), by_block(3, 3, 3.1), by_block(2, 2, 2.1)),
    "supervised": attends(by_block(50, 80, 110), by_block(3, 4, 5), by_block(1, 1, 0.1)),
}
HIDDEN = {"mae": 0.9, "simmim": 0.85, "supervised": 0.5, "moco": 0.6}


def of(metric, **roles):
    return {role: {metric: value} for role, value in roles.items()}


# All scores as the papers claim.
AS_CLAIMED = {
    **{("analysis/occlusion", f"frozen{p}"): of("CKA", **HIDDEN) for p in ("", "-token-drop", "-occluders")},
    (SPECIES, "finetune"): of("top1", **TOP1),
    (SPECIES, "frozen"): of("top1", mae=20, simmim=15, supervised=40, moco=35, scratch=10),
    ("analysis/attention", "frozen"): ATTENTION,
    ("analysis/similarity", "frozen"): of("CKA", mae=0.9, simmim=0.9, supervised=0.3),
    ("analysis/shape-bias", "frozen"): of("shape_bias", mae=0.6, simmim=0.5, supervised=0.3),
    ("pose/scenes", "finetune"): of("PCK@0.1", mae=60, simmim=61, supervised=50),
    ("pose/scenes", "finetune-drop3"): of("PCK@0.1", mae=40, simmim=41, supervised=55),
    ("depth/scenes", "finetune"): of("RMSE", mae=1.0, simmim=1.1, supervised=1.5),
    ("depth/scenes", "finetune-drop3"): of("RMSE", mae=1.4, simmim=1.5, supervised=1.3),
    ("tracking/scenes", "finetune"): of("SUC", mae=50, simmim=51, supervised=40),
    ("detection/scenes", "finetune"): {
        "mae": {"AP": 1, "curve bbox": 0.1, "curve cls": 0.5},
        "simmim": {"AP": 1, "curve bbox": 0.1, "curve cls": 0.5},
        "supervised": {"AP": 1, "curve bbox": 0.3, "curve cls": 0.3},
    },
}  # fmt: skip
# One score against each claim.
AGAINST = {
    1: ("analysis/occlusion", "frozen-occluders", "mae", "CKA", 0.2),
    2: (SPECIES, "finetune", "r-mae", "top1", 25),  # below the middle of scratch and mae
    3: (SPECIES, "finetune", "mae, 1 image", "top1", 15),
    4: (SPECIES, "frozen", "mae", "top1", 60),
    5: ("analysis/attention", "frozen", "mae", "distance/11", 400),
    6: ("pose/scenes", "finetune-drop3", "supervised", "PCK@0.1", 30),
    7: ("analysis/similarity", "frozen", "mae", "CKA", 0.1),
    8: ("depth/scenes", "finetune", "mae", "RMSE", 2.0),
    9: ("detection/scenes", "finetune", "mae", "curve cls", 0.1),
    10: ("analysis/shape-bias", "frozen", "simmim", "shape_bias", 0.1),
}


def pretraining(role, seed):
    name, _, images = role.partition(", ")
    weight = 0.1 if images.startswith("lambda") else 1.0
    return {
        "method": {"name": name, "reconstruction_weight": weight},
        "arch": "vit",
        "recipe": {"name": "scenes", "img_size": 64, "epochs": 30, "batch_size": 64},
        "data": "species",
        "images": int(images.split()[0]) if images.endswith(("image", "images")) else None,
        "subset_seed": seed if images else None,
        "seed": seed,
    }


def record(result, place, role, seed, numbers):
    task, protocol = place
    metrics = {name: value for name, value in numbers.items() if not name.startswith("curve")}
    scratch = role == "scratch"
    made = result(
        task=task,
        protocol=protocol,
        digest=digest(place),
        backbone="vit" if scratch else f"{role}-{seed}",
        weights=None if scratch else digest([role, seed]),
        method="scratch" if scratch else role.partition(",")[0],
        seed=seed,
        metrics=metrics,
        primary=next(iter(metrics)),
    )
    header = {} if scratch else {"pretraining": json.dumps(pretraining(role, seed))}
    curves = {n.removeprefix("curve "): [v, v] for n, v in numbers.items() if n not in metrics}
    return dataclasses.replace(made, backbone={**made.backbone, "arch": "vit", "pretraining": header}, curves=curves)


def noise(spread, *names):
    """Return a number in -spread to spread that depends on the names only."""
    return spread * math.sin(sum(ord(char) * k for k, char in enumerate("/".join(names), 1)))


def world(result, spread=0.001, seeds=(0, 1, 2), without="", changes=()):
    changed = {(t, p, r, m): value for t, p, r, m, value in changes}
    return [
        record(
            result,
            place,
            role,
            seed,
            {
                name: changed.get((*place, role, name), value) * (1 + noise(spread, *place, role, name, str(seed)))
                for name, value in numbers.items()
            },
        )
        for place, roles in AS_CLAIMED.items()
        for role, numbers in roles.items()
        for seed in seeds
        if role != without
    ]
