import pytest

from bench.errors import UserError
from leaderboards import published, render
from leaderboards.standings import sections

NUMBER = """
[[group]]
task = "classification/scenes"
protocol = "fine-tuned"
metric = "top1"
pretraining = "ImageNet-1k"
rows = [
  { backbone = "ViT-B", method = "mae", value = 83.6, source = "a paper, table 1" },
  { backbone = "ViT-L", method = "mae", value = 85, source = "a paper, table 1" },
]
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "published.toml"
        path.write_text(text)
        return path

    return write


def test_the_projects_own_numbers_all_have_a_source_and_a_protocol():
    numbers = published.load(render.PUBLISHED)
    assert len(numbers) > 50
    assert all(n.source and n.protocol for n in numbers)
    assert len(set(numbers)) == len(numbers)


def test_a_row_inherits_the_keys_of_its_group(file):
    one, two = published.load(file(NUMBER))
    assert (one.backbone, one.metric, one.value, one.task) == ("ViT-B", "top1", 83.6, "classification/scenes")
    assert two.value == 85.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (', source = "a paper, table 1" },\n  {', " },\n  {", "has no source"),
        ('source = "a paper, table 1"', 'source = " "', "has no source"),
        ('protocol = "fine-tuned"', "", "has no protocol"),
        ("83.6", '"83.6"', "has no value"),
        ("83.6", "nan", "has no value"),
        ("metric =", "metrics =", "metric"),
        ("[[group]]", "[[groups]]", "group"),
        ("rows = [", "rows = 3 #", "cannot be read"),
        ("[[group]]", "[[group", "cannot be read"),
    ],
)
def test_a_number_without_a_source_or_with_another_flaw_is_refused(file, old, new, message):
    with pytest.raises(UserError, match=message):
        published.load(file(NUMBER.replace(old, new, 1)))


def test_published_numbers_are_in_a_section_of_their_own_and_never_ranked(file, result):
    numbers = published.load(file(NUMBER))
    ours = [result(seed=seed, metrics={"top1": 50.0 + seed}) for seed in (0, 1)]
    pages, alone = render.all_pages(sections(ours), numbers), render.all_pages(sections(ours))
    page = pages["classification-scenes.md"]
    assert page.startswith(alone["classification-scenes.md"])
    apart = page.removeprefix(alone["classification-scenes.md"])
    assert apart.startswith(f"\n## {published.TITLE}\n")
    assert "83.6" in apart
    assert "a paper, table 1" in apart
    assert "83.6" not in pages["README.md"]
    assert f"({published.PAGE})" in pages["README.md"]
    assert "ViT-L" in pages[published.PAGE]
    assert [row.rank for row in sections(ours)[0].rows] == [(1, 1)]


def test_a_task_without_runs_is_only_on_the_page_of_published_numbers(file, result):
    numbers = published.load(file(NUMBER.replace("classification/scenes", "depth/nyu")))
    pages = render.all_pages(sections([result()]), numbers)
    assert "## depth/nyu" in pages[published.PAGE]
    assert "83.6" not in pages["classification-scenes.md"]
    assert "depth-nyu.md" not in pages
