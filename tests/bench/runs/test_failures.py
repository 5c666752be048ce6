"""Records of runs whose process has ended."""

import pytest
from toy_desk import Desk

from bench.errors import UserError
from bench.records import SIDECARS, Store, sidecar
from bench.runs import plan
from bench.runs.execute import RESULT, execute, record_failure
from bench.runs.plan import Run


@pytest.fixture
def run(desk: Desk) -> Run:
    (made,) = plan.runs(desk.request())
    return made


def read(run: Run) -> tuple[str, str | None]:
    record = Store(run.results).load(run.key)
    assert record is not None
    return record.status, record.error


def test_a_failure_is_recorded_and_a_later_one_replaces_it(run: Run) -> None:
    record_failure(run, "out of memory")
    assert read(run) == ("failed", "out of memory")
    record_failure(run, "a node failed")
    assert read(run) == ("failed", "a node failed")
    path = run.results / run.key.path
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_number_is_not_replaced_by_a_failure(run: Run) -> None:
    execute(run)
    record_failure(run, "out of memory")
    assert read(run) == ("done", None)


def test_nor_is_one_that_is_not_visible_yet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS hides what another machine wrote, for up to a minute."""
    execute(run)
    with monkeypatch.context() as stale:
        stale.setattr(Store, "load", lambda self, key: None)
        record_failure(run, "out of memory")
    assert read(run) == ("done", None)


def test_a_saved_result_goes_into_the_store(run: Run) -> None:
    result = execute(run)
    assert result is not None
    (run.folder / RESULT).write_text(result.to_json())
    (run.results / run.key.path).unlink()
    record_failure(run, "the store was full")
    assert read(run) == ("done", None)
    assert not (run.folder / RESULT).exists()


def test_a_store_that_cannot_be_written_is_reported(run: Run) -> None:
    run.results.mkdir()
    (run.results / "toy").write_text("")
    with pytest.raises(UserError, match=r"The record .* cannot be written"):
        record_failure(run, "out of memory")


def test_pictures_are_copied_next_to_the_record_of_a_saved_result(run: Run) -> None:
    result = execute(run)
    assert result is not None
    (run.folder / SIDECARS).mkdir()
    (run.folder / SIDECARS / "line.png").write_bytes(b"a line")
    record = run.results / run.key.path
    record.unlink()
    (run.folder / RESULT).write_text(result.to_json())
    record_failure(run, "the store was full")
    assert sidecar(record, "line.png").read_bytes() == b"a line"
    assert record.with_name(f"{record.stem}.line.png") == sidecar(record, "line.png")
    assert Store(run.results).paths() == [record]
