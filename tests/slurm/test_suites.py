"""A suite on the real Slurm: its pretrainings are jobs, and the same command goes on when they are done."""

from desk import Desk, until

SUITE = """
[[pretrain]]
name = "mae-2"
command = "--method mae --arch test_vit --recipe smoke --data species --epochs 1 --images 2 --decoder-dim 32 \
--decoder-depth 1 --decoder-heads 2"
[[evaluate]]
tasks = ["classification/scenes"]
protocols = ["frozen-knn"]
"""


def test_a_suite_submits_its_pretrainings_and_then_its_runs(desk: Desk) -> None:
    suite = desk.folder / "small.toml"
    suite.write_text(SUITE)
    del desk.environment["BENCH_CACHE"]  # the small world is made once a machine, by processes with torch
    asked = ("bench.run", "--suite", str(suite), "--smoke", "--cluster", "slurm", "--slurm")
    refused = desk.module(*asked, "mem=9000G")
    assert refused.returncode == 2
    assert "1 of 1 pretrainings were not submitted (mae-2)" in refused.stderr
    words = (*asked, "mem=3500M")
    first = desk.module(*words)
    assert first.returncode == 0, first.stderr
    made = lambda: list(desk.folder.glob("runs/pretraining/*/mae-2/backbone.safetensors"))  # noqa: E731
    if "1 backbones do not exist yet" in first.stderr:  # it is soon done
        until(made, 240, "the pretraining is done")
        assert "1 runs submitted" in desk.module(*words).stderr
    else:
        assert "1 runs submitted" in first.stderr
    (record,) = desk.await_end()
    assert record["status"] == "done"
    assert record["backbone"]["name"] == "mae-2"
    assert "1 of 1 done" in desk.module(*words).stdout
