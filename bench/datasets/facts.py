"""What the authors of a data set say that it holds; what a folder is compared with."""

import dataclasses
from collections.abc import Mapping

UNSTATED = "none that is known; take it for research alone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Official numbers; what is not known is left out, never guessed.

    Args:
        counts: items by split: images, or sequences of videos.
        classes: how many there are; 0 where there are none, or it is not known.
        gigabytes: what it takes to download, in 10^9 bytes; 0 where it is not known.
        md5: of lists and labels, by their path below the root, as published.
        files: what lies where: an example of a path below the root, and what it is.
        known_from: where the numbers were looked up.
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    classes: int = 0
    gigabytes: float = 0.0
    md5: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    known_from: str = ""
