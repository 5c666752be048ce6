"""Signals as Slurm sends them, to processes of our own: who requeues, and what then follows from it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# `requeued` stands for submitit's handler, which Survivor finds in place.
HEAD = """
import os, signal, sys, time
from bench.slurm import requeue

def requeued(number, frame):
    print("requeue", signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, flush=True)
    if "refused" in sys.argv:
        raise RuntimeError("too many time-outs")

signal.signal(signal.SIGUSR2, requeued)
requeue.END_SECONDS = 1.0
requeue._handle_signals()
"""


def run(code: str, *words: str) -> list[str]:
    command = [sys.executable, "-c", HEAD + code, *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split("\n")[:-1]


def test_only_the_job_s_process_requeues_and_nothing_ends_it_meanwhile() -> None:
    """A loader's worker is forked with the handlers, and hears the same signals."""
    said = run("""
child = os.fork()
if child == 0:
    for number in (signal.SIGTERM, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    time.sleep(0.2)
    print("worker lives", flush=True)
    os._exit(0)
os.waitpid(child, 0)
os.kill(os.getpid(), signal.SIGUSR2)
time.sleep(0.2)
""")
    assert said == ["worker lives", "requeue True"]


def test_an_error_after_slurm_s_signal_waits_for_the_end() -> None:
    said = run("""
start = time.monotonic(); requeue.await_end(); print(time.monotonic() - start < 0.5)
os.kill(os.getpid(), signal.SIGTERM)
start = time.monotonic(); requeue.await_end(); print(time.monotonic() - start >= 1.0)
""")
    assert said == ["True", "True"]


def test_a_requeue_that_is_refused_is_a_failure() -> None:
    said = run(
        """
try:
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(0.2)
except RuntimeError as error:
    print(error)
start = time.monotonic(); requeue.await_end(); print(time.monotonic() - start < 0.5)
""",
        "refused",
    )
    assert said == ["requeue True", "too many time-outs", "True"]
