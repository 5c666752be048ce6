"""Accuracies of a classifier, from its logits."""

import torch
from torch import Tensor


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Percentages of logits [n, k] against labels int64 [n], or of images of several classes [n, k].

    The latter have mAP, of VOC2007 (`multilabel`), alone; the former:

    top1; top5, left out where there are not more than five classes and it could only be 100;
    mean_class_accuracy, the mean over the classes that occur among the labels of top1 within the class.
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


# Images of several classes: the mean average precision of VOC2007.
#
# A label is 1 (the class is there), -1 (it is not) or 0 (it is, but hard to see: it counts neither way).

RECALLS = 10  # in steps of a tenth


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """The mean over classes of the 11-point interpolated average precision, a percentage.

    scores, labels: [n, k]. Classes that occur in no image are left out; of equal scores, the earlier
    image counts as the more certain. As VOC2007's `VOCevalcls`: the mean, over recalls of 0, 0.1,
    ... 1, of the highest precision at that recall or above.
    """
    columns = zip(scores.double().T, labels.T, strict=True)
    found = [average_precision(s, y) for s, y in columns if (y > 0).any()]
    return 100 * sum(found) / len(found) if found else 0.0


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """The 11-point interpolated average precision, 0 to 1, of one class: scores, labels [n]."""
    counted = labels != 0
    order = scores[counted].argsort(descending=True, stable=True)
    right = (labels[counted][order] > 0).long().cumsum(0)
    precision = right / torch.arange(1, len(right) + 1, device=right.device)
    best = precision.flip(0).cummax(0).values.flip(0)  # at this recall or above
    # Whole numbers: a tenth is no binary fraction, and 3 of 10 are a recall of 0.3.
    at = [RECALLS * right >= tenth * right[-1] for tenth in range(RECALLS + 1)]
    return sum(float(best[reached][0]) for reached in at) / (RECALLS + 1)
