"""What is asked of Slurm, from a site's file and the command line."""

import json
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.slurm.cluster import _kind, megabytes
from bench.slurm.request import Resources, minutes, resources


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "site.json"
    monkeypatch.setenv("BENCH_SLURM", str(path))
    path.write_text(json.dumps({"partition": "main", "time": "8:00:00", "nodes": 2, "mail-type": "END"}))
    return path


def test_the_command_line_is_read_over_the_site_s_file(site: Path) -> None:
    asked = resources(["time=2:00:00", "gpus_per_node=4", "qos=long"])
    assert asked == Resources(
        partition="main", time=120, nodes=2, gpus_per_node=4, options={"mail-type": "END", "qos": "long"}
    )
    assert asked.world_size == 8
    assert str(asked).split() == [
        *("partition=main", "time=120", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4"),
        *("mail-type=END", "qos=long"),
    ]


def test_without_gpus_a_node_has_one_process(site: Path) -> None:
    assert resources([]).world_size == 2
    assert resources(["nodes=1"]).world_size == 1


# The examples of sbatch's manual, under --time.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90:30", 91),
        ("2:00:00", 120),
        ("1-12", 36 * 60),
        ("1-12:30", 36 * 60 + 30),
        ("1-12:30:01", 36 * 60 + 31),
        ("infinite", None),
        ("soon", None),
        ("1:2:3:4", None),
        ("", None),
    ],
)
def test_slurm_s_notations_of_a_time(text: str, expected: int | None) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("partition", "give key=value"),
        ("time=never", "give minutes"),
        ("time=0", "give minutes"),
        ("nodes=0", "at least 1"),
        ("gpus_per_node=-1", "at least 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(site: Path, word: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        resources([word])


def test_a_site_s_file_that_is_missing_or_odd(site: Path) -> None:
    site.write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        resources([])
    site.unlink()
    with pytest.raises(UserError, match="is not a file"):
        resources([])


def test_a_signal_comes_before_the_end_and_after_the_start() -> None:
    assert Resources(time=60).signal_delay == 120
    assert Resources(time=1).signal_delay == 20


def test_sinfo_s_lines() -> None:
    """As sinfo 22.05 and 23.11 print them."""
    kind = _kind("gpu*|up|2-00:00:00|8|96|515000|gpu:a100:8(S:0-1)|a100,nvlink")
    assert (kind.partition, kind.default, kind.up) == ("gpu", True, True)
    assert (kind.minutes, kind.nodes, kind.cpus, kind.memory, kind.gpus) == (2880, 8, 96, 515000, 8)
    assert kind.features == {"a100", "nvlink"}
    mixed = _kind("low|inact|infinite|2|4+|4000+|gpu:a100:2,gpu:v100:1,shard:8|(null)")
    assert (mixed.minutes, mixed.gpus, mixed.up) == (None, 3, False)


def test_memory_in_megabytes() -> None:
    assert [megabytes(m) for m in ("1500M", "2G", "2GB", "1T", "500", None)] == [*(1500, 2048, 2048, 1024**2, 500, 0)]
