import subprocess
from collections.abc import Callable

import pytest

Python = Callable[[str], "subprocess.CompletedProcess[str]"]


ATTEMPTS = {
    "by mmengine": "import mmengine.utils as u; u.install_package('a-package-that-is-not-there')",
    "by a list": "import subprocess, sys; subprocess.run([sys.executable, '-m', 'pip', 'install', 'x'])",
    "by a shell": "import subprocess; subprocess.run('cd / && /usr/bin/pip3 -q install x', shell=True)",
    "by os.system": "import os; os.system('uv pip install x')",
    "by exec": "import os; os.execvp('mim', ['mim', 'install', 'x'])",
    "by posix_spawn": "import os; os.posix_spawnp('uv', [b'uv', b'add', b'x'], {})",
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_installing_while_running_is_refused(python: Python, attempt: str) -> None:
    done = python("from bench.environment import refuse_installs; refuse_installs();" + attempt)
    assert done.returncode == 1
    assert "RuntimeError: Refused to run" in done.stderr
    assert "nothing is installed while the harness runs" in done.stderr


def test_other_commands_run(python: Python) -> None:
    code = """
from bench.environment import refuse_installs
refuse_installs()
import os, subprocess, sys
subprocess.run(["git", "--version"], check=True)
subprocess.run(["/bin/echo", "install", "/share/uv/bin/python", "--add"], check=True)
subprocess.run(["/bin/echo", "pip", "list"], check=True)
assert os.system("true") == 0
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
