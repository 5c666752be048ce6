"""Ten claims of two papers about masked image modelling (MIM), as comparisons of scores.

Paper 1: Kong & Zhang, arXiv 2208.04164. Paper 2: Xie et al., arXiv 2205.13543. The claims and the rule of the verdict
(`claims_page`) were written down before any record of the suite existed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number in every record of a task and protocol.

    Args:
        metric: a metric of the record; "" is the primary one.
        curve: a curve of the record whose mean is used instead of a metric.
    """

    task: str
    protocol: str
    metric: str = ""
    curve: str = ""

    @property
    def what(self) -> str:
        """The number's name; "" for the primary one."""
        return f"mean of the curve {self.curve}" if self.curve else self.metric

    def __str__(self) -> str:
        """Task, protocol and number, in one line."""
        return f"{self.task} {self.protocol} {self.what}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Term:
    """A part of a comparison: the score of a role times a factor. A role is a method or a variant of one."""

    factor: float
    role: str
    score: Score


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A sum of terms that is above 0 if the claim is true."""

    label: str
    terms: tuple[Term, ...]


Comparisons = tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, and the comparisons that decide it.

    Args:
        preconditions: comparisons that must be above 0 for the others to be meaningful.
        context: scores that are listed but not compared.
    """

    number: int
    paper: str
    sentence: str
    measure: str
    comparisons: Comparisons
    preconditions: Comparisons = ()
    context: tuple[Score, ...] = ()

    @property
    def shown(self) -> tuple[Score, ...]:
        """The scores that are listed, each once, without those of single blocks."""
        terms = [term for each in (*self.preconditions, *self.comparisons) for term in each.terms]
        compared = [t.score for t in terms if "/" not in t.score.metric]
        return tuple(dict.fromkeys((*self.context, *compared)))


def above(one: str, other: str, score: Score, *, higher: bool = True) -> Comparison:
    """Compare two roles: `one` above `other`, or below it if the claim is a lower score."""
    sign = 1 if higher else -1
    terms = (Term(factor=sign, role=one, score=score), Term(factor=-sign, role=other, score=score))
    return Comparison(label=f"{one} {'above' if higher else 'below'} {other}: {score}", terms=terms)


def each(ones: Sequence[str], others: Sequence[str], scores: Iterable[Score], *, higher: bool = True) -> Comparisons:
    """Compare each of `ones` with each of `others` in every score."""
    return tuple(above(one, other, score, higher=higher) for score in scores for one in ones for other in others)


# The claims.

SCRATCH = "scratch"
MIM = ("mae", "simmim")  # the two methods that the papers test
OTHERS = ("supervised", "moco")
FEW = (1, 10, 100)

PAPER_1 = "Understanding MIM via Learning Occlusion Invariant Feature (arXiv 2208.04164)"
PAPER_2 = "Revealing the Dark Secrets of MIM (arXiv 2205.13543)"


def few(images: int) -> str:
    """Return the role of MAE pretrained on this number of images."""
    return f"mae, {images} image{'' if images == 1 else 's'}"


def quarter(blocks: int) -> int:
    """Return the number of blocks in the last quarter: 3 of 12."""
    return max(1, blocks // 4)


def claims(covered: str, blocks: int) -> tuple[Claim, ...]:
    """Return the ten claims.

    Args:
        covered: the classification task whose classes supervised pretraining was trained on.
        blocks: of the backbones; the papers' last three of twelve blocks become the last quarter.
    """
    frozen, tuned = (Score(task=covered, protocol=name, metric="top1") for name in ("frozen", "finetune"))
    learnt = (above("supervised", SCRATCH, frozen),)  # for claims about supervised pretraining: it learned its classes
    occlusion, few_images, semantics = _features(frozen, tuned, learnt)
    layers, losses, shape = _mim_against_supervised(learnt)
    attention = _locality(blocks, learnt), _diversity(blocks, learnt)
    first = occlusion, _similarity(tuned), few_images, semantics
    return (*first, *attention, layers, _geometry(tuned, learnt), losses, shape)


def _features(frozen: Score, tuned: Score, learnt: Comparisons) -> tuple[Claim, Claim, Claim]:
    protocols = ("frozen", "frozen-token-drop", "frozen-occluders")
    occlusion = Claim(
        number=1,
        paper=PAPER_1,
        sentence="MIM features are more occlusion-invariant than supervised and contrastive ones (CKA under masking).",
        measure="CKA between the features of occluded and whole images, averaged over all layers and over 10 to 90 % "
        "of the image hidden (by cells of the mean colour, by dropped tokens, by true occluders): MAE and SimMIM each "
        "above supervised and MoCo v3.",
        comparisons=each(MIM, OTHERS, [Score(task="analysis/occlusion", protocol=p, metric="CKA") for p in protocols]),
        preconditions=learnt,
    )
    few_images = Claim(
        number=3,
        paper=PAPER_1,
        sentence="A few images, even one, give a better initialisation than scratch.",
        measure="Top-1 after fine-tuning from MAE pretrained on 1, 10 and 100 images (another set in each replicate), "
        "repeated to the number of updates of the other methods: each above scratch.",
        comparisons=each([few(n) for n in FEW], [SCRATCH], [tuned]),
    )
    semantics = Claim(
        number=4,
        paper=PAPER_1,
        sentence="MIM features are less semantic (frozen) though better to fine-tune.",
        measure="Top-1 of a linear probe and of fine-tuning: MAE and SimMIM each below supervised and MoCo v3 in the "
        "first, above them in the second. Supervised pretraining was trained on the same classes, as in the papers.",
        comparisons=(*each(MIM, OTHERS, [frozen], higher=False), *each(MIM, OTHERS, [tuned])),
        preconditions=learnt,
    )
    return occlusion, few_images, semantics


def _similarity(tuned: Score) -> Claim:
    gain = (Term(factor=0.5, role="mae", score=tuned), Term(factor=-0.5, role=SCRATCH, score=tuned))
    comparisons = []
    for other in ("r-mae", "c-mae"):
        for sign, verb in ((1, "not worse"), (-1, "not better")):
            ends = (Term(factor=sign, role=other, score=tuned), Term(factor=-sign, role="mae", score=tuned))
            label = f"{other} {verb} than mae by half of mae's gain over scratch: {tuned}"
            comparisons.append(Comparison(label=label, terms=(*ends, *gain)))
    return Claim(
        number=2,
        paper=PAPER_1,
        sentence="Replacing MAE's similarity (R-MAE, C-MAE) changes little.",
        measure="Top-1 after fine-tuning. A change is little if it is less than half of MAE's gain over scratch, in "
        "either direction (the papers' figures for ViT-B: about 0.5 points of a gain of 1.3). R-MAE has lambda 1; the "
        "other two values are listed. If MAE gains nothing over scratch, the claim is not decided.",
        comparisons=tuple(comparisons),
        preconditions=(above("mae", SCRATCH, tuned),),
    )


def _attention(metric: str) -> Score:
    return Score(task="analysis/attention", protocol="frozen", metric=metric)


def _mean_above(metric: str, one: str, blocks: range, other: str, its: range, label: str) -> Comparison:
    """Compare the mean of an attention metric over blocks of `one` with that of `other` over `its` blocks."""
    terms = [
        Term(factor=sign / len(span), role=role, score=_attention(f"{metric}/{block}"))
        for sign, role, span in ((1, one, blocks), (-1, other, its))
        for block in span
    ]
    return Comparison(label=label, terms=tuple(terms))


def _locality(blocks: int, learnt: Comparisons) -> Claim:
    last, first = range(blocks - quarter(blocks), blocks), range(quarter(blocks))
    narrow = [
        _mean_above(metric, "supervised", last, mim, last, f"{mim} below supervised: attention {metric}, last quarter")
        for metric in ("distance", "entropy")
        for mim in MIM
    ]
    label = "supervised: attention distance of the last quarter above that of the first"
    return Claim(
        number=5,
        paper=PAPER_2,
        sentence="MIM brings locality to all layers; supervised is global above (attention distance, entropy).",
        measure="Attention distance (pixels) and entropy (nats), averaged over the last quarter of the blocks "
        f"({quarter(blocks)} of {blocks}): MAE and SimMIM each below supervised, and supervised's distance larger "
        "there than in its first quarter.",
        comparisons=(*narrow, _mean_above("distance", "supervised", last, "supervised", first, label)),
        preconditions=learnt,
        context=tuple(map(_attention, ("distance", "distance_last3", "entropy", "entropy_last3"))),
    )


def _diversity(blocks: int, learnt: Comparisons) -> Claim:
    few_last = quarter(blocks)
    last, before = range(blocks - few_last, blocks), range(blocks - few_last)
    what = "KL divergence between heads"
    diverse = [
        _mean_above("KL", m, last, "supervised", last, f"{m} above supervised: {what}, last quarter") for m in MIM
    ]
    label = f"supervised: {what} of the earlier blocks above that of the last quarter"
    return Claim(
        number=6,
        paper=PAPER_2,
        sentence="MIM keeps head diversity; supervised loses it in the last layers; dropping those helps supervised "
        "and hurts MIM.",
        measure="KL divergence between heads (nats), averaged over the last quarter of the blocks "
        f"({few_last} of {blocks}): MAE and SimMIM each above supervised, and supervised below its own earlier blocks. "
        "PCK@0.1 of pose and RMSE of depth, fine-tuned with and without that quarter (PCK, since keypoint AP is near 0 "
        "at this scale).",
        comparisons=(*diverse, _mean_above("KL", "supervised", before, "supervised", last, label), *_drops(few_last)),
        preconditions=learnt,
        context=tuple(map(_attention, ("KL", "KL_last3"))),
    )


def _drops(count: int) -> Iterator[Comparison]:
    for task, metric, sign in (("pose/scenes", "PCK@0.1", 1), ("depth/scenes", "RMSE", -1)):
        whole = Score(task=task, protocol="finetune", metric=metric)
        dropped = Score(task=task, protocol=f"finetune-drop{count}", metric=metric)
        for role in ("supervised", *MIM):
            factor, verb = (sign, "helps") if role == "supervised" else (-sign, "hurts")
            terms = (Term(factor=factor, role=role, score=dropped), Term(factor=-factor, role=role, score=whole))
            yield Comparison(label=f"dropping the last quarter {verb} {role}: {task} {metric}", terms=terms)


def _geometry(tuned: Score, learnt: Comparisons) -> Claim:
    pose = Score(task="pose/scenes", protocol="finetune", metric="PCK@0.1")
    depth = Score(task="depth/scenes", protocol="finetune", metric="RMSE")
    tracking = Score(task="tracking/scenes", protocol="finetune")
    species = Score(task="classification/scenes", protocol="finetune", metric="top1")
    near = []
    for mim in MIM:
        weights = {"supervised": 1, mim: -0.5, SCRATCH: -0.5}
        terms = tuple(Term(factor=factor, role=role, score=tuned) for role, factor in weights.items())
        label = f"supervised above the middle between scratch and {mim}: {tuned}"
        near.append(Comparison(label=label, terms=terms))
    return Claim(
        number=8,
        paper=PAPER_2,
        sentence="MIM wins on geometric and motion tasks (pose, depth, tracking) and fine-grained classification; "
        "supervised stays near on covered semantics.",
        measure="Fine-tuned: PCK@0.1 of pose, RMSE of depth, the primary metric of tracking, top-1 of the species: MAE "
        "and SimMIM each better than supervised. Near: supervised has more than half of MIM's gain over scratch in "
        f"{tuned.task}, whose classes it was trained on. (Supervised pretraining on the species was also trained on "
        "the classes of the fine-grained task here.)",
        comparisons=(
            *each(MIM, ["supervised"], [pose]),
            *each(MIM, ["supervised"], [depth], higher=False),
            *each(MIM, ["supervised"], [tracking, species]),
            *near,
        ),
        preconditions=learnt,
    )


def _mim_against_supervised(learnt: Comparisons) -> tuple[Claim, Claim, Claim]:
    box, cls = (Score(task="detection/scenes", protocol="finetune", curve=c) for c in ("bbox", "cls"))
    alike = Score(task="analysis/similarity", protocol="frozen", metric="CKA")
    bias = Score(task="analysis/shape-bias", protocol="frozen", metric="shape_bias")
    layers = Claim(
        number=7,
        paper=PAPER_2,
        sentence="MIM layers are alike (CKA), supervised layers are not.",
        measure="CKA between two different layers, averaged over all pairs: MAE and SimMIM each above supervised.",
        comparisons=each(MIM, ["supervised"], [alike]),
        preconditions=learnt,
    )
    losses = Claim(
        number=9,
        paper=PAPER_2,
        sentence="In detection, MIM's localisation loss falls faster, supervised's classification loss lower.",
        measure="Box regression loss (a lower mean is a faster fall) and classification loss of Mask R-CNN, averaged "
        "over all iterations of fine-tuning: MAE and SimMIM each below supervised in the first, above it in the "
        "second. (A detector that finds nothing has almost no box loss, since few of its proposals match: in short "
        "training a low box loss alone is not an advantage.)",
        comparisons=(*each(MIM, ["supervised"], [box], higher=False), *each(MIM, ["supervised"], [cls])),
        preconditions=learnt,
    )
    shape = Claim(
        number=10,
        paper=PAPER_1,
        sentence="MIM is more shape-biased than supervised.",
        measure="Shape bias (0 to 1) of a linear probe on cue conflicts: MAE and SimMIM each above supervised.",
        comparisons=each(MIM, ["supervised"], [bias]),
        preconditions=learnt,
    )
    return layers, losses, shape
