import csv
import re

from leaderboards import export
from leaderboards.standings import sections


def test_csv_has_every_number_unrounded(result, tmp_path):
    records = [result(seed=s, metrics={"top1": 50 + s / 3, "top5": 90.0}) for s in range(3)]
    records += [result(backbone="a,b", method="scratch", weights=None, metrics={"top1": 40.0})]
    old = {"digest": "e2" * 32, "finished": "2020-01-01T00:00:00+00:00"}
    records += [result(backbone="old", **old)]
    path = tmp_path / "deep" / "all.csv"
    export.write_csv(sections(records), path)
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert [(x["backbone"], x["metric"], x["n"]) for x in lines] == [
        *(("vit", "top1", "3"), ("vit", "top5", "3"), ("a,b", "top1", "1"), ("old", "top1", "1"))
    ]
    first = lines[0]
    assert float(first["mean"]) == sum(50 + s / 3 for s in range(3)) / 3
    assert (first["rank_first"], first["rank_last"], first["mode"]) == ("1", "2", "frozen")
    assert first["device_hours"] == "0.25"
    assert (lines[1]["primary"], lines[1]["rank_first"]) == ("False", "")
    assert lines[2]["half_width"] == ""
    assert lines[3]["superseded_by"] == "d1" * 32


def test_latex_marks_the_best_and_the_ties_and_escapes_names(result, tmp_path):
    records = [result(seed=s, metrics={"top1": v}) for s, v in enumerate((70.0, 71.0))]
    for seed, value in enumerate((70.5, 70.2)):
        records += [result(backbone="my_vit&co", seed=seed, metrics={"top1": value})]
    (path,) = export.write_latex(sections(records), tmp_path / "tex")
    assert path.name == "classification-scenes.tex"
    lines = path.read_text().splitlines()
    assert "vit & mae & \\textbf{70.50 $\\pm$ 6.35} & 1--2 & 2 \\\\" in lines
    assert "my\\_vit\\&co & mae & 70.35 $\\pm$ 1.91 $\\approx$ & 1--2 & 2 \\\\" in lines
    columns = {len(re.split(r"(?<!\\)&", line)) for line in lines if line.endswith("\\\\")}
    assert columns == {5}
    assert "\\begin{tabular}{llrrr}" in lines


def test_latex_escapes_all_special_characters():
    assert export.escaped("a_b%$#{}~^\\<>&") == (
        "a\\_b\\%\\$\\#\\{\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\textless{}\\textgreater{}\\&"
    )


def test_superseded_numbers_are_not_in_latex_tables(result, tmp_path):
    late = {"digest": "e2" * 32, "finished": "2026-03-01T00:00:00+00:00"}
    records = [result(metrics={"top1": 11.0}), result(metrics={"top1": 22.0}, **late)]
    (path,) = export.write_latex(sections(records), tmp_path)
    assert "22.00" in path.read_text()
    assert "11.00" not in path.read_text()
