import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from leaderboards.render import BOARDS, main

README = Path(__file__).parents[2] / "README.md"

CARD = "backbone-vit@a1a1a1a1.md"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def render(results_dir, out):
    none = results_dir.parent / "none.toml"
    none.write_text("")
    places = ["--results", str(results_dir), "--out", str(out), "--published", str(none)]
    return lambda *flags: main([*places, *flags])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writes_a_page_per_task_and_the_overview(write, render, out, capsys):
    write()
    write(task="segmentation/voc", digest="e2" * 32)
    assert render() == 0
    assert sorted(contents(out)) == [*("README.md", CARD, "classification-scenes.md", "segmentation-voc.md")]
    assert "records: 2, pages: 4, overview: " in capsys.readouterr().out


def test_shuffled_creation_gives_the_same_bytes(write, render, out, results_dir):
    cells = [{"backbone": b, "seed": s} for b in "abc" for s in range(3)]
    seen = []
    for seed in range(3):
        shutil.rmtree(results_dir)
        random.Random(seed).shuffle(cells)
        for cell in cells:
            write(**cell, metrics={"top1": 50.0 + cell["seed"] / 3})
        assert render() == 0
        seen.append(contents(out))
    assert seen[0] == seen[1] == seen[2]


def test_check_is_silent_if_up_to_date_and_lists_stale_pages(write, render, out, capsys):
    write()
    render()
    before = contents(out)
    capsys.readouterr()
    assert render("--check") == 0
    assert capsys.readouterr().out == ""
    write(seed=1)
    write(task="segmentation/voc", digest="e2" * 32)
    assert render("--check") == 1
    stale = capsys.readouterr().out.splitlines()
    names = ["README.md", CARD, "classification-scenes.md", "segmentation-voc.md"]
    assert stale == [f"stale: {out / name}" for name in names]
    assert contents(out) == before


def test_check_notices_an_edited_page_and_creates_nothing(write, render, out):
    write()
    assert render("--check") == 1
    assert not out.exists()
    render()
    page = out / "classification-scenes.md"
    page.write_bytes(page.read_bytes().replace(b"50.00", b"95.00"))
    assert render("--check") == 1


def test_a_page_whose_records_are_gone_is_stale_then_deleted(write, render, out):
    path = write(task="segmentation/voc", digest="e2" * 32)
    write()
    render()
    (out / "notes.md").write_text("mine")
    path.unlink()
    assert render("--check") == 1
    assert render() == 0
    assert sorted(contents(out)) == ["README.md", CARD, "classification-scenes.md", "notes.md"]
    assert render("--check") == 0


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"schema": 99}', b"\xff\xfe", None])
def test_a_corrupt_record_is_reported_and_the_others_rendered(write, render, out, capsys, damage):
    write(backbone="good")
    bad = write(backbone="bad")
    bad.write_bytes(damage or bad.read_bytes().replace(b"50.0", b"90.0"))  # None: edited by hand
    assert render() == 1
    errors = capsys.readouterr().err
    assert str(bad) in errors
    assert len(errors.splitlines()) == 1
    page = (out / "classification-scenes.md").read_text()
    assert "good" in page
    assert "bad" not in page
    assert render("--check") == 1


@pytest.mark.parametrize("place", ["vit@a1a1a1a1/d1d1d1d1-seed1.json", "b@c/d1d1d1d1-seed0.json"])
def test_a_copied_record_is_not_another_seed(write, render, out, capsys, place):
    path = write()
    copy = path.parents[1] / place
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(path, copy)
    assert render() == 1
    assert str(copy) in capsys.readouterr().err
    (line,) = [x for x in (out / "classification-scenes.md").read_text().splitlines() if "vit" in x]
    assert " 1 |" in line


def test_an_empty_folder_is_not_an_error(render, out):
    assert render() == 0
    assert "No results yet" in (out / "README.md").read_text()
    assert render("--check") == 0


def test_a_missing_folder_is_a_wrong_request(tmp_path, capsys):
    assert main(["--results", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "none") in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_readme_of_the_users_own_is_not_overwritten(write, render, out, capsys):
    write()
    out.mkdir()
    (out / "README.md").write_text("# My project\n")
    assert render() == 2
    assert "README.md" in capsys.readouterr().err
    assert contents(out) == {"README.md": b"# My project\n"}


def test_out_that_is_a_file_is_a_wrong_request(write, render, out, capsys):
    write()
    out.write_text("")
    assert render() == 2
    error = capsys.readouterr().err
    assert str(out) in error
    assert len(error.splitlines()) == 1


def test_print_shows_the_overview(write, render, capsys):
    write()
    assert render("--print") == 0
    printed = capsys.readouterr().out
    assert "## Frozen backbones, embedded world" in printed
    assert "**50.00**" in printed
    assert "<!--" not in printed


def test_help_imports_neither_torch_nor_scipy():
    code = (
        "import sys, leaderboards.render\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'scipy', 'numpy', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_committed_pages_and_the_readme_are_up_to_date():
    assert main(["--check", "--extract", str(README)]) == 0


def test_every_link_of_the_committed_pages_leads_to_a_file():
    links = [
        (page.name, link) for page in BOARDS.glob("*.md") for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    ]
    assert len(links) > 100
    assert [(page, link) for page, link in links if not (BOARDS / unquote(link)).exists()] == []


def test_no_page_is_among_the_code_and_no_code_among_the_pages():
    assert list(BOARDS.parent.glob("*.md")) == []
    assert {path.suffix for path in BOARDS.iterdir()} == {".md"}
