"""docs/checkpoints.md names every format that is recognised."""

import re
from pathlib import Path

from bench.backbones import formats

PAGE = Path(formats.__file__).parents[3] / "docs/checkpoints.md"


def test_every_format_is_in_the_page_and_every_row_is_a_format() -> None:
    known = {found.name for found in formats.formats()} | {formats.TIMM.name}
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    cells = [cell for row in rows[1:] for cell in re.sub(r" \(.*?\)", "", row).split("; ")]
    assert set(cells) - {"---"} == known
