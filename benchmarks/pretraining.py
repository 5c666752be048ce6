"""What a step of pretraining costs: bf16 beside fp32, methods beside MAE, files beside images at hand.

    python benchmarks/pretraining.py [--arch vit_base_patch16_224] [--batch-size 16] [--rounds 5]

Sides take turns in one process, on the same images and with the same fused AdamW; given are medians.
A step is forward, backward and update. The machine's own rate is that of its best large bf16 product
of matrices; operations of an MAE step are counted on the step itself (`torch.utils.flop_counter`), so
what bf16 could gain at most is known: all of that rate. Steps from JPEG files run between two lots of as
many steps on images at hand.
Memory is the most that a process of its own takes for three steps. Runs on the GPU where there is one.
"""

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from pretrain.augment import Augment, augmentation
from pretrain.data import Batch, CropBatches, loader
from pretrain.encoder import choose_attention
from pretrain.methods import method
from pretrain.siamese import Siamese, build
from pretrain.sources import source
from pretrain.training import compile_in_place

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS = 10  # of a lot
METHODS: Mapping[str, Mapping[str, Any]] = {
    "mae": {},
    "r-mae": {},
    "r-mae, complement_share 1": {"complement_share": 1.0},
    "c-mae": {},
    "c-mae, complement_share 1/3": {"complement_share": 1 / 3},
}


def trainer(arch: str, name: str, bf16: bool, compiled: bool = False, **changes: Any) -> Callable[[Batch], float]:
    """A method with its optimiser: one step on a batch, in seconds."""
    siamese: Siamese = build(method(name, **changes), arch, img_size=224, seed=0).to(DEVICE)
    choose_attention(siamese, DEVICE, bf16)
    if compiled:
        compile_in_place(siamese)
    optimiser = torch.optim.AdamW(siamese.parameters(), lr=1e-4, fused=True)

    def step(batch: Batch) -> float:
        start = _now()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            losses = siamese(batch)
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
        return _now() - start

    return step


def _now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median seconds of each side, after a round that does not count."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side in list(sides) if number % 2 else list(sides)[::-1]:
            taken = sides[side]()
            if number:
                seconds[side].append(taken)
    return {side: statistics.median(values) for side, values in seconds.items()}


def matrix_rate() -> float:
    """Operations a second of this machine's best large bf16 product."""
    best = 0.0
    for size in (1024, 2048, 4096) if DEVICE.type == "cpu" else (4096, 8192):
        one = torch.randn(size, size, device=DEVICE).bfloat16()
        one @ one
        for _ in range(3):
            start = _now()
            one @ one
            best = max(best, 2 * size**3 / (_now() - start))
    return best


def photographs(folder: Path, number: int = 256) -> Path:
    """JPEG files of ImageNet's usual size."""
    generator = np.random.default_rng(0)
    for index in range(number):
        small = generator.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:04}.jpg", quality=90)
    return folder


def from_files(folder: Path, batch_size: int, step: Callable[[Batch], float]) -> float:
    """How fast steps are from JPEG files, decoded by one worker, as a part of their rate on images at hand."""
    chosen = augmentation("mae")
    augment = Augment(chosen, mean=MEAN, std=STD).to(DEVICE)
    found = source(str(folder))
    crops = CropBatches(found, batch_size=batch_size, img_size=224, seed=0, scale=chosen.scale)
    raw = loader(crops, iterations=STEPS + 1, num_workers=1)
    batches = (augment(b.to(DEVICE), (0, iteration)) for iteration, b in enumerate(raw))
    first = next(batches)
    step(first)
    lots: list[float] = []
    for lot in (itertools.repeat(first, STEPS), batches, itertools.repeat(first, STEPS)):
        start = _now()
        for batch in lot:
            step(batch)
        lots.append(_now() - start)
    before, files, after = lots
    return (before + after) / 2 / files


def peak_memory(arch: str, batch_size: int, bf16: bool) -> float:
    """Bytes that a process of its own takes for three steps of MAE."""
    command = [sys.executable, __file__, "--arch", arch, "--batch-size", str(batch_size)]
    command += ["--memory", "bf16" if bf16 else "fp32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _memory(arch: str, batch_size: int, bf16: bool) -> None:
    step, batch = trainer(arch, "mae", bf16), _images(batch_size)
    for _ in range(3):
        step(batch)
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found
    cuda = DEVICE.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * int(found[1])
    sys.stdout.write(f"{json.dumps(peak)}\n")


def _images(batch_size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(images=torch.randn(batch_size, 3, 224, 224, generator=generator).to(DEVICE))


def main() -> None:
    """Print the comparisons."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="vit_base_patch16_224")
    parser.add_argument("--batch-size", type=int, default=16 if DEVICE.type == "cpu" else 256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", choices=("bf16", "fp32"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    arch, size = given.arch, given.batch_size
    if given.memory:
        return _memory(arch, size, given.memory == "bf16")
    sys.stdout.write(f"{arch}, batch {size}, {DEVICE}, {torch.get_num_threads()} threads\n")
    _precisions(arch, size, given.rounds)
    _methods(arch, size, given.rounds)


def _precisions(arch: str, size: int, rounds: int) -> None:
    """MAE's step in fp32, in bf16 and compiled: speed, memory, and the rate from files."""
    say, batch = sys.stdout.write, _images(size)
    steps = {kind: trainer(arch, "mae", kind == "bf16") for kind in ("fp32", "bf16")}
    steps["compiled"] = trainer(arch, "mae", True, compiled=True)
    compiling = steps["compiled"](batch)
    with FlopCounterMode(display=False) as counter:
        steps["fp32"](batch)
    operations = counter.get_total_flops() / size
    taken = in_turn({kind: (lambda s=s: s(batch)) for kind, s in steps.items()}, rounds)
    rate, own = size / taken["bf16"], matrix_rate()
    say(f"MAE, fp32: {size / taken['fp32']:.2f} images/s; bf16: {rate:.2f} ")
    say(f"({taken['fp32'] / taken['bf16']:.2f} x); and compiled: {size / taken['compiled']:.2f} ")
    say(f"({taken['fp32'] / taken['compiled']:.2f} x; its first step takes {compiling:.0f} s)\n")
    say(f"{operations / 1e9:.1f} G operations an image; {own / 1e9:.0f} G/s of large matrices: ")
    say(f"{100 * rate * operations / own:.0f} % of it (all of it: ")
    say(f"{own / operations * taken['fp32'] / size:.2f} x fp32)\n")
    memory = {kind: peak_memory(arch, size, kind == "bf16") for kind in ("fp32", "bf16")}
    say(f"memory: fp32 {memory['fp32'] / 1e9:.2f} GB, bf16 {memory['bf16'] / 1e9:.2f} GB\n")
    with tempfile.TemporaryDirectory() as folder:
        files = from_files(photographs(Path(folder)), size, steps["bf16"])
    say(f"from JPEG files: {100 * files:.0f} % of the rate on images at hand\n")


def _methods(arch: str, size: int, rounds: int) -> None:
    """Every method's step beside MAE's."""
    batch = _images(size)
    sides = {label: trainer(arch, label.partition(",")[0], True, **changes) for label, changes in METHODS.items()}
    cost = in_turn({label: (lambda s=s: s(batch)) for label, s in sides.items()}, rounds)
    for label, seconds in cost.items():
        sys.stdout.write(f"{label:30} {size / seconds:8.2f} images/s  {seconds / cost['mae']:.2f} x MAE's step\n")


if __name__ == "__main__":
    main()
