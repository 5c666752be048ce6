"""A trained model as a tracker: it encodes the first frame's template, then locates the target in search crops."""

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
    """Follows one target; an `evaluation.Tracker`.

    The template is always the first frame's. As in SwinTrack, a search crop is centred on the last box, boxes are cut
    at the frame's borders, and the last box stays if a new one is outside of the frame. The cell is chosen by
    (1 - window) * score + window * Hann window around the last place; the confidence is the score alone.
    """

    def __init__(self, model: Any, device: str, template_size: int, img_size: int, window: float):
        """Put the PairModel `model` into evaluation mode on the device."""
        self.model, self.device = model.to(device).eval(), torch.device(device)
        self.sizes, self.window = (template_size, img_size), window
        self.prior = hann(self.model.grids[1]).to(self.device)

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
    def start(self, frame: Frame, box: Boxes) -> None:
        """Encode the template of a frame (H, W, 3), uint8 RGB, at its box (4,): x, y, width, height."""
        self.box = box
        self.template = self.model.encode(self._seen(frame, pairs.around(box, pairs.TEMPLATE, self.sizes[0])))

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
    def track(self, frame: Frame) -> tuple[Boxes, float]:
        """Return the target's box in the next frame, and the confidence in it, 0-1."""
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
        return self.model.data_preprocessor.normalised(picture)


def save(model: Any, config: Mapping[str, Any], folder: Path) -> tuple[str, Path]:
    """Write a trained model to a file named by the hash of its weights; return the hash and the path."""
    state = model.state_dict()
    hashed = hashlib.sha256()
    for name, value in state.items():
        hashed.update(name.encode())
        hashed.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    key = hashed.hexdigest()
    path = folder / f"tracker-{key[:8]}.pth"
    if not path.is_file():
        temporary = path.with_suffix(f".{os.getpid()}")  # all ranks write the same content
        # The state replaces the backbone's weights file.
        backbone = {**config["backbone"], "weights": None, "part": None, "allow_partial": []}
        torch.save({"model": {**config, "backbone": backbone}, "state": state}, temporary)
        temporary.replace(path)
    return key, path


def restore(path: Path, device: str, window: float) -> CropTracker:
    """Load the tracker that `save` wrote; each process of an evaluation does so."""
    from adapters.openmmlab import compatibility

    compatibility.prepare()
    from mmengine.registry import MODELS

    from adapters.tracking import model  # noqa: F401  registered by import

    saved = torch.load(path, map_location="cpu", weights_only=True)
    built = MODELS.build(saved["model"])
    built.load_state_dict(saved["state"])
    sizes = {name: saved["model"][name] for name in ("template_size", "img_size")}
    return CropTracker(built, device, window=window, **sizes)
