"""Work spread over processes, and the few places that stand for all items."""

import numpy as np
import pytest

from bench.datasets import check
from bench.errors import UserError
from bench.processes import spread


def test_where_it_is_looked() -> None:
    assert check.places(0) == []
    assert check.places(1) == [0]
    assert check.places(5) == [0, 1, 2, 3, 4]
    found = check.places(1_281_167)
    assert (found[0], found[-1], len(found)) == (0, 1_281_166, 8)
    assert max(np.diff(found)) - min(np.diff(found)) <= 1


def test_work_is_spread_in_order_and_its_mistakes_arrive() -> None:
    assert list(spread(lambda k: k * k, range(5, 300), "squares")) == [k * k for k in range(5, 300)]

    def fails(number: int) -> int:
        if number == 70:
            raise UserError("the seventieth")
        return number

    with pytest.raises(UserError, match="the seventieth"):
        list(spread(fails, range(200), "numbers"))
