"""The same bytes for any batch, thread count or process, and the golden hash of a small world."""

import hashlib
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scenes_by_hand import SMALL, TINY

from bench.scenes.generate import generate
from bench.scenes.layout import scene
from bench.scenes.recipe import GENERATOR_VERSION, combined_hash
from bench.scenes.render import render, square_root
from bench.scenes.rng import Draw, cos_sin
from bench.scenes.world import read_manifest

# Over the pixels before encoding and the JSON texts, so they do not depend on a codec. When it changes, the
# generator made another world: raise GENERATOR_VERSION, then write the new pair here.
GOLDEN = (4, "94ff9614d3ee5400a0bd3eb57d91d035074d60fd0d8c607b94980c1a2dd4f892")


def _digest(pictures) -> list[str]:
    return [
        hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in vars(p).values())).hexdigest()
        for p in pictures
    ]


def test_a_scene_does_not_depend_on_its_batch_or_the_threads():
    scenes = [scene(3, "train", k) for k in range(4)]
    together = _digest(render(scenes, 64))
    assert _digest([render([one], 64)[0] for one in scenes]) == together
    assert _digest(render(scenes[::-1], 64))[::-1] == together
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert _digest(render(scenes, 64)) == together
    finally:
        torch.set_num_threads(threads)
    assert len(set(together)) == len(scenes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_roots_are_ieees(dtype):
    """Python's are the processor's own; of a double, rounded to single precision, they are single's too."""
    x = 100 * torch.rand(50_000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert square_root(x).equal(torch.tensor([math.sqrt(v) for v in x.tolist()], dtype=dtype))


@pytest.mark.long
def test_two_processes_write_what_one_writes(tmp_path):
    one, two = (generate(TINY, tmp_path / str(n), workers=n) for n in (1, 2))
    assert two["pixels"] == one["pixels"]
    assert two["sha256"] == one["sha256"]


def test_the_small_world_is_the_golden_one(small_world):
    manifest = read_manifest(small_world)
    assert manifest["recipe"] == asdict(SMALL)
    assert (GENERATOR_VERSION, combined_hash(manifest["pixels"])) == GOLDEN


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same_bytes():
    scenes = [scene(3, "train", k) for k in range(4)]
    assert _digest(render(scenes, 64, "cuda")) == _digest(render(scenes, 64))


def test_our_cosine_is_the_cosine():
    for degrees in np.linspace(-900, 900, 977):
        c, s = cos_sin(float(degrees))
        assert c == pytest.approx(math.cos(math.radians(degrees)), abs=1e-14)
        assert s == pytest.approx(math.sin(math.radians(degrees)), abs=1e-14)


def test_draws_are_uniform_and_keyed():
    draw = Draw(1, 2)
    values = [draw.uniform() for _ in range(20000)]
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx([2000] * 10, abs=180)
    assert Draw(1, 2).uniform() == values[0]
    assert Draw(2, 1).uniform() != values[0]
    assert sorted(Draw(7).shuffled(range(9))) == list(range(9))
