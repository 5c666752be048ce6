"""A real Slurm for the tests of this folder: `make test-slurm`.

One that is there is used (a shared folder is then named by BENCH_TEST_SHARED, if the temporary one is none).
Else a private one of four nodes on this machine is started by the script $BENCH_SLURM_UP or
../shared/slurm/slurm_up.sh. Where that cannot be, `make test-slurm` fails; `make test` says what it left out.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from desk import CONTENDED, FAILING, ROOT, Desk

BASE = Path(tempfile.gettempdir()) / "slurm-bench-tests"
STARTED = BASE.with_suffix(".started")
UP = Path(os.environ.get("BENCH_SLURM_UP", ROOT.parent / "shared/slurm/slurm_up.sh"))
SITE = {"mem": "1500M", "time": 60}
REASON = "they need a Slurm and minutes: make test-slurm"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the private cluster that this session started."""
    if STARTED.is_file() and not hasattr(session.config, "workerinput"):
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
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Puts a running Slurm into the environment; gives "private" or "site"."""
    if str(BASE) not in os.environ.get("SLURM_CONF", "") and _answers():
        yield "site"
        return
    if not UP.is_file():
        pytest.fail(
            f"no Slurm here, and no {UP} that starts one (set BENCH_SLURM_UP)", pytrace=False
        )
    if not BASE.exists():
        STARTED.touch()
    # On a busy machine it takes longer than usual until a node is rid of a job that is to start again.
    private = {"BASE": str(BASE), "NODES": "4", "ACCT": "none", "CRED_EXPIRE": "12"}
    environment = {**os.environ, **private}
    # Several workers of pytest ask at once; what one starts must not hold the lock.
    lock = f"{BASE}.lock"
    started = subprocess.run(
        ["flock", "--close", lock, "bash", str(UP)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if started.returncode:
        pytest.fail(f"{UP} could not start a Slurm: {started.stderr}", pytrace=False)
    os.environ["SLURM_CONF"] = str(BASE / "etc/slurm.conf")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    yield "private"


@pytest.fixture
def private(cluster: str) -> None:
    """For tests that take an administrator."""
    if cluster != "private":
        pytest.skip("takes the cluster's administrator: runs on a private Slurm only")


@pytest.fixture
def desk(cluster: str, tmp_path: Path) -> Desk:
    shared = os.environ.get("BENCH_TEST_SHARED")
    folder = Path(shared) / f"{tmp_path.parent.name}-{tmp_path.name}" if shared else tmp_path
    return Desk(
        folder, {**SITE, "exclude": f"{FAILING},{CONTENDED}"} if cluster == "private" else SITE
    )
