"""What it costs to load ViT-L into a backbone, beside reading the file's bytes into tensors.

    python benchmarks/checkpoint_loading.py

A file is written in each format, then read in processes of their own, in turn: once as it is (by
`torch.load`; of safetensors, whose library only maps it, the bytes), and once by `bench.backbones.build`,
which also recognises the format, makes the model and accounts for every key. Given are the medians, and
the most memory above that of the process before, in parts of the file.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ARCH, ROUNDS = "vit_large_patch16_224", 7

PROBE = r"""
import json, re, sys, time
from pathlib import Path
import timm, torch
from bench.backbones import build
side, path = sys.argv[1:]
def bare():
    return torch.load(path, weights_only=True) if path.endswith("pth") else Path(path).read_bytes()
def whole():
    return build("ARCH", weights=path, num_classes=0)
def peak():  # of this process alone; what getrusage says is inherited
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
timm.create_model("test_vit")
before = peak()
started = time.perf_counter()
kept = {"bare": bare, "whole": whole}[side]()
seconds = time.perf_counter() - started
print(json.dumps([seconds, 1024 * (peak() - before)]))
""".replace("ARCH", ARCH)


def write(folder: Path) -> list[Path]:
    """A pretrained file in each of the two formats, as MAE's and timm's are."""
    import timm
    import torch
    from safetensors.torch import save_file

    state = timm.create_model(ARCH).state_dict()
    torch.save({"model": state}, folder / "large.pth")
    save_file(state, folder / "large.safetensors")
    return [folder / "large.pth", folder / "large.safetensors"]


def probe(side: str, path: Path) -> tuple[float, float]:
    """Seconds, and bytes above what the process had before."""
    command = [sys.executable, "-c", PROBE, side, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main() -> None:
    """Print a row a format."""
    with tempfile.TemporaryDirectory() as folder:
        for path in write(Path(folder)):
            taken: dict[str, list[tuple[float, float]]] = {"bare": [], "whole": []}
            for number in range(ROUNDS):
                for side in sorted(taken, reverse=bool(number % 2)):
                    taken[side].append(probe(side, path))
            size = path.stat().st_size
            bare, whole = (statistics.median(s for s, _ in taken[side]) for side in taken)
            peak = max(p for _, p in taken["whole"]) / size
            sys.stdout.write(
                f"{path.suffix:12} {size / 1e9:.2f} GB: read {bare:.2f} s, loaded {whole:.2f} s "
                f"({whole / bare:.2f} x), peak {peak:.2f} x the file\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
