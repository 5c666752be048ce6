from dataclasses import replace

from bench.records import RunKey, Store, weights8
from leaderboards import standings
from leaderboards.render import all_pages
from leaderboards.standings import sections


def test_many_records_are_read_by_several_processes_to_the_same_pages(write, result, results_dir, monkeypatch):
    for task in ("classification/scenes", "pose/scenes"):
        for backbone in "ab":
            for seed in range(3):
                write(task=task, backbone=backbone, seed=seed, metrics={"top1": 50.0 + seed})
    write(task="pose/scenes", backbone="c").write_text("{")
    for task in ("pose/scenes", "pose/scenes-2"):  # which comes first as a path
        record = write(task=task, metrics={"top1": 1.0})
        record.with_name(record.stem + "-a.png").write_bytes(b"")
    one = standings.read(results_dir)
    monkeypatch.setattr(standings, "MANY", 0)
    several = standings.read(results_dir)
    assert one.records == several.records == 14
    assert one.broken == several.broken
    assert "c@a1a1a1a1" in one.broken[0]
    assert one.pictures == several.pictures
    assert [path.parts[-3] for path in one.pictures] == ["scenes-2", "scenes"]
    assert all_pages(one.standings) == all_pages(several.standings)


def test_a_reading_gives_the_pages_of_its_records(write, result, results_dir):
    changes = {"curves": {"loss": [1.0, 2.0]}, "environment": {"torch": "2"}}
    records = [result(seed=s, metrics={"top1": 50.0 + s}, **changes) for s in range(2)]
    for seed in range(2):
        write(seed=seed, metrics={"top1": 50.0 + seed}, **changes)
    found = standings.read(results_dir)
    assert all_pages(found.standings) == all_pages(sections(records))


def test_one_file_under_two_tags_is_two_backbones(result, results_dir):
    for tag in ("", "in1k"):
        for seed in range(2):
            made = result(seed=seed)
            made = replace(made, backbone={**made.backbone, "tag": tag})
            key = RunKey(
                task=made.task, backbone="vit", weights8=weights8(made.backbone), digest=made.digest, seed=seed
            )
            Store(results_dir).write(key, made)
    (section,) = standings.read(results_dir).standings
    assert sorted(row.n for row in section.rows) == [2, 2]
    assert len({row.weights8 for row in section.rows}) == 2
