"""A trained model as a tracker: the template of the first frame, then a place in one search crop after the other."""

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.tracking import pairs
from adapters.tracking.heads import hann
from adapters.tracking.pairs import Boxes, Crop, Frame


class CropTracker:
    """Follows one target; as `evaluation.Tracker` has it.

    The template stays the first frame's. Every search crop lies about the last box, cut at the frame's
    borders, as SwinTrack has it: where a found box lies wholly outside, the last one stays. A cell's
    score counts `1 - window`, and `window` of it is a Hann window about the last place; the confidence
    is the score alone.
    """

    def __init__(self, model: Any, device: str, template_size: int, img_size: int, window: float):
        """`model` is a PairModel, which is put into evaluation mode."""
        self.model, self.device = model.to(device).eval(), torch.device(device)
        self.sizes, self.window = (template_size, img_size), window
        self.prior = hann(self.model.grids[1]).to(self.device)

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
    def start(self, frame: Frame, box: Boxes) -> None:
        """Take the template of a frame (H, W, 3), uint8 RGB, and its box (4,): x, y, width, height."""
        self.box = box
        self.template = self.model.encode(self._seen(frame, pairs.around(box, pairs.TEMPLATE, self.sizes[0])))

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
    def track(self, frame: Frame) -> tuple[Boxes, float]:
        """The box of the target in the next frame, and how sure that is, from 0 to 1."""
        crop = pairs.around(self.box, pairs.SEARCH, self.sizes[1], pairs.SMALLEST)
        logits, boxes = self.model.locate(self.template, self._seen(frame, crop))
        scores = logits[0].sigmoid()
        best = int(((1 - self.window) * scores + self.window * self.prior).argmax())
        middle, size = np.split(boxes[0, best].double().cpu().numpy() * crop.size, 2)
        found = crop.to_frame(np.concatenate((middle - size / 2, size)))
        found = pairs.clipped(found, frame.shape[1], frame.shape[0])
        if (found[2:] > 0).all():
            self.box = found
        return self.box, float(scores[best])

    def _seen(self, frame: Frame, crop: Crop) -> Tensor:
        picture = torch.from_numpy(crop.take(frame)).to(self.device).permute(2, 0, 1)[None]
        seen: Tensor = self.model.data_preprocessor.normalised(picture)
        return seen


def save(model: Any, config: Mapping[str, Any], folder: Path) -> tuple[str, Path]:
    """Write a trained model to a file of its own name, which is returned with the hash of its weights."""
    state = model.state_dict()
    hashed = hashlib.sha256()
    for name, value in state.items():
        hashed.update(name.encode())
        hashed.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    key = hashed.hexdigest()
    path = folder / f"tracker-{key[:8]}.pth"
    if not path.is_file():
        temporary = path.with_suffix(f".{os.getpid()}")  # every rank writes the same
        torch.save({"model": _unloaded(config), "state": state}, temporary)
        temporary.replace(path)
    return key, path


def _unloaded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's config without the file that its backbone began with."""
    fresh: dict[str, Any] = {"weights": None, "part": None, "allow_partial": []}
    return {**config, "backbone": {**config["backbone"], **fresh}}


def restore(path: Path, device: str, window: float) -> CropTracker:
    """The tracker that `save` wrote; a process of an evaluation makes its own."""
    from adapters.openmmlab import compatibility

    compatibility.prepare()
    from mmengine.registry import MODELS

    from adapters.tracking import model  # noqa: F401  registered by import

    saved = torch.load(path, map_location="cpu", weights_only=True)
    built = MODELS.build(saved["model"])
    built.load_state_dict(saved["state"])
    sizes = {name: saved["model"][name] for name in ("template_size", "img_size")}
    return CropTracker(built, device, window=window, **sizes)


def maker(path: Path, device: str, window: float) -> functools.partial[CropTracker]:
    """What `evaluation.evaluate` calls in each of its processes."""
    return functools.partial(restore, path, device, window)
