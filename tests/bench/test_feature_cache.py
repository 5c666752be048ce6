"""Entries are complete or extracted again, written once by two processes, deleted oldest first, never while in use."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.features import FeatureCache

KEY = {"split": "train", "sizes": (1, 2)}
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features", 1e9)


def make(cache, key=KEY, rows=ROWS):
    with cache.writer(key, len(rows)) as writer:
        for row in rows:
            writer.append(row[None])
        return writer.finish({"backbone": "vit"})


def names(cache):
    return sorted(path.name for path in cache.folder.iterdir())


def test_an_entry_is_numpys_own_file_and_a_json(cache):
    made = make(cache)
    assert np.array_equal(made.array, ROWS)
    path = cache.path(KEY)
    assert names(cache) == sorted([path.name, path.with_suffix(".json").name])
    assert np.array_equal(np.load(path), ROWS)
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["key"] == {"split": "train", "sizes": [1, 2]}
    assert about["rows"] == 4
    assert about["backbone"] == "vit"


def test_an_entry_is_opened_as_a_memory_map(cache):
    assert cache.open(KEY) is None
    make(cache)
    held = cache.open(KEY)
    assert isinstance(held.array, np.memmap)
    assert np.array_equal(held.array, ROWS)
    assert held.about["backbone"] == "vit"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"x")


def flip_a_bit(path):
    """As a failing disk does: neither size nor time tell."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_a_bit_of_the_header(path):
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)


def write_something_else(path):
    path.write_bytes(b"not an array")


def empty(path):
    path.write_bytes(b"")


def lose_the_json(path):
    path.with_suffix(".json").unlink()


def halve_the_json(path):
    path = path.with_suffix(".json")
    path.write_text(path.read_text()[:50])


def another_rate_in_the_json(path):
    path = path.with_suffix(".json")
    path.write_text(path.read_text().replace('"rows": 4', '"rows": 5'))


def a_list_in_the_json(path):
    path.with_suffix(".json").write_text("[1]")


DAMAGES = [truncate, lengthen, flip_a_bit, flip_a_bit_of_the_header, write_something_else, empty]
DAMAGES += [lose_the_json, halve_the_json, another_rate_in_the_json, a_list_in_the_json]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_found_and_can_be_made_again(cache, caplog, damage):
    make(cache)
    damage(cache.path(KEY))
    with caplog.at_level(logging.WARNING):
        assert cache.open(KEY) is None
    assert "extracted again" in caplog.text
    make(cache)
    assert np.array_equal(cache.open(KEY).array, ROWS)


def test_an_entry_under_anothers_name_is_not_trusted(cache, caplog):
    other = {"split": "val"}
    make(cache)
    for suffix in (".npy", ".json"):
        path = cache.path(KEY).with_suffix(suffix)
        path.rename(cache.path(other).with_suffix(suffix))
    with caplog.at_level(logging.WARNING):
        assert cache.open(other) is None
    assert "another key" in caplog.text


def test_what_is_cut_short_by_an_error_leaves_nothing(cache):
    def cut_short():
        with cache.writer(KEY, 4) as writer:
            writer.append(ROWS[:2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert names(cache) == []


DIE = """
import os, sys, pathlib, numpy as np
from bench.features import FeatureCache
with FeatureCache(pathlib.Path(sys.argv[1]), 1e9).writer({"split": "train", "sizes": (1, 2)}, 4) as writer:
    writer.append(np.ones((2, 3), np.float32))
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_found_and_replaced(cache):
    done = subprocess.run([sys.executable, "-c", DIE, cache.folder], env=ENVIRONMENT)
    assert done.returncode == -9
    assert [entry.state for entry in cache.entries()] == ["half-written"]
    assert cache.open(KEY) is None
    make(cache)
    assert np.array_equal(cache.open(KEY).array, ROWS)
    assert len(names(cache)) == 2


def test_what_a_killed_process_left_goes_with_the_next_entry(cache):
    subprocess.run([sys.executable, "-c", DIE, cache.folder], env=ENVIRONMENT)
    make(cache, {"another": "key"})
    assert [entry.state for entry in cache.entries()] == ["whole"]


def _make_if_missing(folder, barrier, made):
    cache = FeatureCache(folder, 1e9)
    barrier.wait()
    with cache.writer(KEY, len(ROWS)) as writer:
        if cache.open(KEY) is None:
            time.sleep(0.2)  # so that the others do wait
            writer.append(ROWS)
            writer.finish({})
            with made.get_lock():
                made.value += 1
    held = cache.open(KEY)
    os._exit(0 if held is not None and np.array_equal(held.array, ROWS) else 1)


def test_processes_at_once_make_an_entry_once(cache):
    context = multiprocessing.get_context("fork")
    barrier, made = context.Barrier(4), context.Value("i", 0)
    runs = [context.Process(target=_make_if_missing, args=(cache.folder, barrier, made)) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert [run.exitcode for run in runs] == [0] * 4
    assert made.value == 1
    assert len(names(cache)) == 2


def old(cache, key, seconds):
    """Make an entry that was last used so long ago."""
    make(cache, key)
    before = time.time() - seconds
    os.utime(cache.path(key), (before, before))
    return cache.path(key).stat().st_size


def test_the_least_recently_used_entries_go_first(cache):
    keys = [{"number": i} for i in range(4)]
    for key, seconds in zip(keys, (40, 30, 20, 10), strict=True):
        size = old(cache, key, seconds)
    assert cache.open(keys[0]) is not None  # used just now
    deleted = cache.trim(2 * size)
    assert [entry.path for entry in deleted] == [cache.path(keys[1]), cache.path(keys[2])]
    assert [cache.open(key) is not None for key in keys] == [True, False, False, True]
    assert len(names(cache)) == 4


def test_the_limit_is_kept_by_whoever_makes_an_entry(cache):
    size = old(cache, {"number": 0}, 20)
    cache = FeatureCache(cache.folder, 2.5 * size)
    for number in (1, 2, 3):
        old(cache, {"number": number}, 10 - number)
        assert sum(entry.size for entry in cache.entries()) <= 2.5 * size
    assert [cache.open({"number": i}) is not None for i in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("opened", [True, False])
def test_none_in_use_is_deleted_whichever_process_uses_it(cache, opened):
    """In use is what was opened, and what was just made, as long as a part of the array lives."""
    held = make(cache)
    held = cache.open(KEY) if opened else held
    view = held.array[1:, :1]  # as a tensor made of it would be
    del held
    assert [entry.state for entry in cache.entries()] == ["in use"]
    pid = os.fork()
    if not pid:
        os._exit(len(cache.trim(0)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cache.trim(0) == []
    assert np.array_equal(view, ROWS[1:, :1])
    del view
    assert [entry.path for entry in cache.trim(0)] == [cache.path(KEY)]
    assert names(cache) == []


def test_one_that_is_being_made_is_not_deleted(cache):
    with cache.writer(KEY, 4) as writer:
        writer.append(ROWS[:2])
        assert [entry.state for entry in cache.entries()] == ["being made"]
        assert cache.trim(0) == []
        writer.append(ROWS[2:])
        writer.finish({})
    assert np.array_equal(cache.open(KEY).array, ROWS)


def test_an_entry_larger_than_the_limit_is_used_and_not_kept(tmp_path, caplog):
    cache = FeatureCache(tmp_path, 0)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(make(cache).array, ROWS)
    assert "not cached: the cache is limited to 0 GB" in caplog.text
    assert names(cache) == []


MEASURE = """
import os, pathlib, resource, sys, numpy as np
from bench.features import FeatureCache
rows, block = int(sys.argv[2]), np.ones((1000, 1000), np.float32)
with FeatureCache(pathlib.Path(sys.argv[1]), 1e9).writer({"rows": rows}, rows) as writer:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(rows // 1000):
        writer.append(block)
    writer.finish({})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_images(cache):
    """100 MB are written in less than 10."""
    command = [sys.executable, "-c", MEASURE, cache.folder, "25000"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=True)
    assert int(done.stdout) < 10_000  # kB
    assert cache.path({"rows": 25000}).stat().st_size > 100e6
