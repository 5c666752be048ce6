import pytest
from pages_of_records import cells, seeds

from leaderboards import compare
from leaderboards.standings import sections


def test_a_paired_difference_excludes_0_although_the_rows_overlap(result):
    records = seeds(result, 60.0, 70.0, 80.0, backbone="a")
    records += seeds(result, 59.0, 68.9, 79.1, backbone="b")
    _, (*_, a, b, less, n, words) = cells(compare.page(sections(records), "a", "b"))
    # Differences 1.0, 1.1, 0.9: 4.30265 x 0.1 / sqrt(3) = 0.2484
    assert (a, b, less, n) == ("70.00", "69.00", "+1.00 ± 0.25", "3 pairs")
    assert words == "A is better, by 0.75 or more"


def test_lower_is_better_for_such_metrics(result):
    lower = {"higher_is_better": False}
    records = seeds(result, 60.0, 70.0, 80.0, backbone="a", **lower)
    records += seeds(result, 59.0, 68.9, 79.1, backbone="b", **lower)
    assert "B is better" in compare.page(sections(records), "a", "b")


def test_a_difference_within_its_interval_has_an_upper_bound(result):
    records = seeds(result, 70.0, 71.0, backbone="a") + seeds(result, 70.5, 70.0, backbone="b")
    _, (*_, words) = cells(compare.page(sections(records), "a", "b"))
    # Differences -0.5, 1.0: mean 0.25, 12.7062 x 1.06066 / sqrt(2) = 9.5297
    assert words == "no difference found; if there is one, it is below 9.78"


def test_single_seeds_have_no_interval(result):
    records = [*seeds(result, 90.0, backbone="a"), *seeds(result, 10.0, backbone="b")]
    _, (*_, words) = cells(compare.page(sections(records), "a", "b"))
    assert words.startswith("no interval: a single seed")


def test_digests_and_protocols_are_never_mixed(result):
    records = seeds(result, 70.0, 71.0, backbone="a")
    late = {"digest": "e2" * 32, "finished": "2026-03-01T00:00:00+00:00"}
    records += seeds(result, 70.5, 70.0, backbone="b", **late)
    records += seeds(result, 70.5, backbone="b", protocol="finetune", digest="e3" * 32)
    assert "no interval" not in compare.page(sections(records), "a", "b")
    assert "in common" in compare.page(sections(records), "a", "b")


def test_the_command_prints_the_table_and_names_what_is_wrong(write, results_dir, capsys):
    for seed in (0, 1):
        write(backbone="vit", seed=seed)
        write(backbone="vit", weights="b2" * 32, seed=seed)
        write(backbone="resnet", seed=seed)
    places = ["--results", str(results_dir)]
    assert compare.main(["vit@a1a1a1a1", "resnet", *places]) == 0
    assert "+0.00 ± 0.00" in capsys.readouterr().out
    assert compare.main(["vit", "resnet", *places]) == 2
    assert "vit@a1a1a1a1 and vit@b2b2b2b2" in capsys.readouterr().err
    assert compare.main(["resnt", "vit", *places]) == 2
    assert "resnet" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", '{"schema": 99}'])
def test_a_record_that_was_left_out_is_in_the_exit_status(write, results_dir, capsys, damage):
    write(backbone="a")
    write(backbone="b")
    write(backbone="c").write_text(damage)
    assert compare.main(["a", "b", "--results", str(results_dir)]) == 1
    assert "Left out" in capsys.readouterr().err
