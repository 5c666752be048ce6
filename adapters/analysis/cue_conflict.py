"""Shape bias of an observer's decisions on stimuli whose shape and texture belong to different classes.

Shape bias = shape / (shape + texture), 0 to 1: the share of decisions for the class of the shape among those for either
class of a stimulus (Geirhos et al., arXiv 1811.12231). Decisions for a third class do not count.
"""

import csv
import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.errors import UserError

LIST = "cue_conflict.csv"
COLUMNS = ("path", "shape", "texture")
RESPONSES = "responses"  # folder next to the stimuli, optional: decisions of people and networks
HUMANS = "humans"
REPLICATES = 2000
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stimulus:
    """An image, and the classes of its shape and of its texture."""

    path: Path
    shape: str
    texture: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bias:
    """Shape bias, 0 to 1, with its 95 % interval; NaN where no decision was for shape or texture."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of an observer.

    Args:
        bias: over all stimuli.
        by_class: over the stimuli of each shape.
        shape, texture: decisions for the class of the shape or the texture, in percent of all decisions.
    """

    bias: Bias
    by_class: Mapping[str, Bias]
    shape: float
    texture: float


def stimuli(folder: Path, limit: int | None = None) -> list[Stimulus]:
    """Return the listed stimuli whose two classes differ, at most `limit`, evenly spaced.

    Raises UserError for a malformed list and for missing images.
    """
    with (folder / LIST).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise UserError(
            f"{folder / LIST} is not a list of stimuli: expected is a line {','.join(COLUMNS)}, then one line per "
            f"image, with its path below {folder}. Restore it."
        )
    found = [
        Stimulus(path=folder / row["path"], shape=row["shape"], texture=row["texture"])
        for row in rows
        if row["shape"] != row["texture"]
    ]
    if missing := [s.path for s in found if not s.path.is_file()]:
        raise UserError(
            f"{len(missing)} of the {len(found)} stimuli of {folder / LIST} are missing, {missing[0]} first. "
            f"Restore them."
        )
    chosen = len(found) if limit is None else min(limit, len(found))
    return [found[i * len(found) // chosen] for i in range(chosen)]


def scores(shown: Sequence[Stimulus], decisions: Sequence[Iterable[str]]) -> Scores:
    """Score the decisions for every stimulus; raises UserError where none is for a shape or texture."""
    answers = [list(given) for given in decisions]
    shape, texture = (
        np.array([answer.count(getattr(s, cue)) for s, answer in zip(shown, answers, strict=True)])
        for cue in ("shape", "texture")
    )
    if not (shape + texture).any():
        raise UserError(
            f"Of {len(shown)} stimuli not one was decided for the class of its shape or of its texture, so shape bias "
            f"is 0 / 0: the backbone does not know these classes. Use weights whose classifier does."
        )
    asked = sum(map(len, answers))
    of = np.array([s.shape for s in shown])
    return Scores(
        bias=_bias(shape, texture),
        by_class={c: _bias(shape[of == c], texture[of == c]) for c in sorted(set(of.tolist()))},
        shape=100 * float(shape.sum()) / asked,
        texture=100 * float(texture.sum()) / asked,
    )


def _bias(shape: np.ndarray, texture: np.ndarray) -> Bias:
    """Return the bias for decisions per stimulus [n], with the percentile bootstrap over stimuli (Efron 1979)."""
    if not (shape + texture).any():
        return Bias(value=np.nan, low=np.nan, high=np.nan)
    drawn = _resamples(len(shape))
    by_shape, by_texture = drawn @ shape, drawn @ texture
    defined = by_shape + by_texture > 0
    biases = by_shape[defined] / (by_shape + by_texture)[defined]
    low, high = np.quantile(biases, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    whole = float(shape.sum() / (shape.sum() + texture.sum()))
    return Bias(value=whole, low=float(low), high=float(high))


@functools.lru_cache(maxsize=2)  # the same for every observer
def _resamples(n: int) -> np.ndarray:
    """Return how often each replicate draws each of n stimuli, float32 [REPLICATES, n]."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=REPLICATES)
    return drawn.astype(np.float32)  # products of counts are exact in float32


def references(shown: Sequence[Stimulus], folder: Path) -> dict[str, Scores]:
    """Return the scores in the response files next to the stimuli: of all people together, and of each network.

    Empty without such files; observers without a response to all of `shown` are omitted. Networks' files that end
    in `_session_1` are of Caffe models (AlexNet, VGG-16, GoogLeNet), those in `_session-1` of torchvision's, by the
    authors' README.
    """
    given: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((folder / RESPONSES).glob("*/*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                given[_observer(path, row["subj"])][_stem(row["imagename"])] += [row["object_response"]]
    return {
        observer: scores(shown, [answers[s.path.stem] for s in shown])
        for observer, answers in given.items()
        if all(s.path.stem in answers for s in shown)
    }


def _observer(path: Path, subject: str) -> str:
    if path.parent.name == HUMANS:
        return HUMANS
    return f"{subject}-caffe" if path.stem.endswith("_session_1") else subject


def _stem(name: str) -> str:
    """Return airplane1-bicycle2 for `0001_s5n_dnn_0_airplane_00_airplane1-bicycle2.png`."""
    return Path(name).stem.rpartition("_")[2]
