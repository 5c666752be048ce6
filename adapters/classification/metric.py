"""Metrics of classification from logits: accuracies, and VOC2007's mAP for images of several classes.

Labels of images of several classes are [n, k]: 1 (present), -1 (absent) or 0 (difficult; not counted).
"""

import torch
from torch import Tensor

RECALLS = 10  # recall in steps of a tenth


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return percentages for logits [n, k] and labels int64 [n], or [n, k] for images of several classes.

    For several classes: mAP. Otherwise top1; mean_class_accuracy, the mean top1 within each class that occurs;
    and top5, omitted for at most five classes, where it is always 100.
    """
    if labels.ndim == 2:
        return {"mAP": mean_average_precision(logits, labels)}
    classes = logits.shape[1]
    ranked = logits.topk(min(5, classes), dim=1).indices == labels[:, None]
    right = ranked[:, 0].double()
    count = labels.bincount(minlength=classes)
    per_class = labels.bincount(right, minlength=classes)[count > 0] / count[count > 0]
    found = {"top1": right.mean(), "mean_class_accuracy": per_class.mean()}
    if classes > 5:
        found["top5"] = ranked.any(1).double().mean()
    return {name: 100 * float(found[name]) for name in ("top1", "top5", "mean_class_accuracy") if name in found}


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of the 11-point interpolated average precision (VOC2007's `VOCevalcls`), 0-100.

    scores, labels: [n, k]. Classes without an image are omitted; of equal scores, the earlier image ranks first.
    """
    columns = zip(scores.double().T, labels.T, strict=True)
    found = [average_precision(s, y) for s, y in columns if (y > 0).any()]
    return 100 * sum(found) / len(found) if found else 0.0


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return one class's average precision, 0-1, for scores, labels [n]: the mean over recalls 0, 0.1, ... 1 of the
    highest precision at that recall or above.
    """
    counted = labels != 0
    order = scores[counted].argsort(descending=True, stable=True)
    right = (labels[counted][order] > 0).long().cumsum(0)
    precision = right / torch.arange(1, len(right) + 1, device=right.device)
    best = precision.flip(0).cummax(0).values.flip(0)  # at this recall or above
    # Compared as integers, since 0.1 is not exact in binary: 3 of 10 must reach a recall of 0.3.
    at = [RECALLS * right >= tenth * right[-1] for tenth in range(RECALLS + 1)]
    return sum(float(best[reached][0]) for reached in at) / (RECALLS + 1)
