import json
import math

import pytest

from bench.errors import UserError
from pretrain.recipes import RECIPES, recipe


def test_maes_rate_is_its_own() -> None:
    mae = recipe("mae-1600")
    assert mae.peak_lr == pytest.approx(2.4e-3)  # 1.5e-4 x 4096 / 256
    assert mae.learning_rate(0) == 0
    assert mae.learning_rate(10) == pytest.approx(2.4e-3 / 4)
    assert mae.learning_rate(40) == pytest.approx(2.4e-3)
    assert mae.learning_rate(820) == pytest.approx(1.2e-3)  # half way down
    assert mae.learning_rate(1600) == pytest.approx(0, abs=1e-12)


def test_simmims_rate_falls_to_a_tenth_at_700() -> None:
    simmim = recipe("simmim-800")
    assert simmim.learning_rate(699.99) == pytest.approx(4e-4)  # 1e-4 x 2048 / 512
    assert simmim.learning_rate(700) == pytest.approx(4e-5)


def test_deit_ends_at_its_least_rate() -> None:
    assert recipe("deit-300").learning_rate(300) == pytest.approx(1e-5)


def test_other_epochs_stretch_the_schedule() -> None:
    short = recipe("simmim-800", epochs=80)
    assert (short.epochs, short.warmup_epochs, short.milestones) == (80, 1.0, (70.0,))
    assert short.learning_rate(70) == pytest.approx(4e-5)
    assert recipe("mae-1600", batch_size=256).peak_lr == pytest.approx(1.5e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_rate_everywhere_and_is_json(name: str) -> None:
    entry = recipe(name)
    rates = [entry.learning_rate(entry.epochs * part / 100) for part in range(101)]
    assert all(math.isfinite(rate) and 0 <= rate <= entry.peak_lr for rate in rates)
    assert max(rates) == pytest.approx(entry.peak_lr, rel=0.05)
    assert json.loads(json.dumps(entry.settings())) == entry.settings()
    assert entry.source
    assert entry.expected


def test_what_is_no_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean mae-1600"):
        recipe("mae-160")
    with pytest.raises(UserError, match="--epochs 0: give at least 1"):
        recipe("scenes", epochs=0)
