"""A real Slurm for the tests of this folder: `make test-slurm`.

One that is there is used (a shared folder is then named by BENCH_TEST_SHARED, if the temporary one is none).
Else a private one of four nodes on this machine is started by the script $BENCH_SLURM_UP or
../shared/slurm/slurm_up.sh. Where that cannot be, `make test-slurm` fails; `make test` says what it left out.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from desk import CONTENDED, FAILING, PATIENCE, ROOT, Desk

BASE = Path(tempfile.gettempdir()) / "slurm-bench-tests"
STARTED, USERS = BASE.with_suffix(".started"), BASE.with_suffix(".users")
UP = Path(os.environ.get("BENCH_SLURM_UP", ROOT.parent / "shared/slurm/slurm_up.sh"))
SITE = {"mem": "1500M", "time": 60}
REASON = "they need a Slurm and minutes: make test-slurm"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the private cluster that a session of tests has started, after the last that uses it."""
    if hasattr(session.config, "workerinput") or not STARTED.is_file():
        return
    with USERS.open("a") as users, contextlib.suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        STARTED.unlink()
        environment = {**os.environ, "BASE": str(BASE), "FAST": "1", "WIPE": "1"}
        subprocess.run(["bash", str(UP.with_name("slurm_down.sh"))], env=environment, check=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "BENCH_TEST_SLURM" not in os.environ:
            item.add_marker(pytest.mark.skip(reason=REASON))


def _answers() -> bool:
    """Whether this machine has a Slurm."""
    try:
        words = ["sinfo", "--noheader"]
        return not subprocess.run(words, capture_output=True, timeout=30, check=False).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Puts a running Slurm into the environment; gives "private" or "site"."""
    if str(BASE) not in os.environ.get("SLURM_CONF", "") and _answers():
        yield "site"
        return
    if not UP.is_file():
        pytest.fail(f"no Slurm here, and no {UP} that starts one (set BENCH_SLURM_UP)", pytrace=False)
    with USERS.open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        _start()
        os.environ["SLURM_CONF"] = str(BASE / "etc/slurm.conf")
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        yield "private"


def _start() -> None:
    """Start the private cluster, unless it runs; several workers of pytest do so at once."""
    if not BASE.exists():
        STARTED.touch()
    # On a busy machine it takes longer than usual until a node is rid of a job that is to start again.
    private = {"BASE": str(BASE), "NODES": "4", "ACCT": "none", "CRED_EXPIRE": "12"}
    started = subprocess.run(
        ["flock", "--close", f"{BASE}.lock", "bash", str(UP)],
        env={**os.environ, **private},
        capture_output=True,
        text=True,
        timeout=300 * PATIENCE,
    )
    if started.returncode:
        pytest.fail(f"{UP} could not start a Slurm: {started.stderr}", pytrace=False)


@pytest.fixture
def private(cluster: str) -> None:
    """For tests that take an administrator."""
    if cluster != "private":
        pytest.skip("takes the cluster's administrator: runs on a private Slurm only")


@pytest.fixture
def desk(cluster: str, tmp_path: Path) -> Desk:
    shared = os.environ.get("BENCH_TEST_SHARED")
    folder = Path(shared) / f"{tmp_path.parent.name}-{tmp_path.name}" if shared else tmp_path
    return Desk(folder, {**SITE, "exclude": f"{FAILING},{CONTENDED}"} if cluster == "private" else SITE)
