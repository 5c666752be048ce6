"""A real Chromium, headless, over the DevTools protocol: JSON through two pipes, so no package is needed."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.records import Result
from leaderboards.published import Published
from leaderboards.standings import Section, sections
from leaderboards.web_page import write

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # too small in a container
    "--disable-extensions",
    "--disable-background-networking",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)
PATIENCE = 60  # seconds for an answer: the machine may be busy
KEYS = {"Enter": (13, "\r"), " ": (32, " "), "Tab": (9, "")}


class Chromium:
    """A browser with one tab."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # Moved to high numbers first: the browser uses 3 and 4, which may be these descriptors.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (commands, answers)]
        actions = [(os.POSIX_SPAWN_DUP2, end, 3 + i) for i, end in enumerate(ends)]
        actions += [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (1, 2)]
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = os.posix_spawn(
            program,
            [program, *FLAGS, *root, f"--user-data-dir={profile}", "about:blank"],
            os.environ,
            file_actions=actions,
            setpgroup=0,
        )
        for end in (commands, answers, *ends):
            os.close(end)
        self._read, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer; events that arrive before it are stored."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], max(0, end - time.monotonic()))
            assert ready, f"Chromium did not answer for {PATIENCE} s"
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium has ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path) -> None:
        """Open a file and wait until its scripts have run."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + PATIENCE
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < end
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """Return the value of a script, a promise's when it is settled."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key as a person does: the page sees a trusted event."""
        code, text = KEYS.get(key, (0, key if len(key) == 1 else ""))
        event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, selector: str, text: str) -> None:
        """Click into a field and type."""
        self.click(selector)
        for char in text:
            self.press(char)

    def click(self, selector: str) -> None:
        """Click in the middle of the first element that the selector finds."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center', inline: 'center'}})")
        box = self.run(f"{place}.getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def look(self, *, width: int = 1280, height: int = 900, scheme: str = "light", media: str = "") -> None:
        """Set the window's size and the reader's preferences."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def table(self, caption: str) -> list[list[str]]:
        """Return the texts of the visible cells of a table's visible rows, the head's first; dashes as "-"."""
        return self.run(
            f"""(() => {{
                const found = Array.from(document.querySelectorAll("table"));
                const table = found.find((one) => one.caption.textContent.startsWith({json.dumps(caption)}));
                const shown = (parts) => Array.from(parts).filter((part) => part.checkVisibility());
                const text = (cell) => cell.innerText.trim().replace("\\u2013", "-");
                return shown(table.rows).map((row) => shown(row.cells).map(text));
            }})()"""
        )

    def picture(self, path: Path) -> None:
        """Save a picture of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._commands)
        os.close(self._answers)
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(
            "NOT TESTED in a browser: no Chromium on PATH and $CHROMIUM is not set. "
            "Install it with `apt-get install chromium` as root, or as `.ci/run` does."
        )
    browser = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def standings(result: Callable[..., Result]) -> list[Section]:
    """Sections with known results: a tie, a winner, a single seed, a failed run, a superseded digest."""

    def seeds(*values: float, **changes: Any) -> list[Result]:
        primary = changes.get("primary", "top1")
        return [result(seed=i, metrics={primary: v}, **changes) for i, v in enumerate(values)]

    tuned = {"protocol": "finetune", "digest": "e2" * 32, "task": "segmentation/voc", "primary": "mIoU"}
    records = seeds(80.0, 80.2, 80.4, backbone="best", cost=cost(1.0))
    slow = {"device_hours": 10.0, "device": "CPU, 2 cores"}
    records += seeds(80.3, 79.8, 80.35, backbone="tied", method="simmim", cost=slow)
    records += seeds(50.0, 50.1, 50.2, backbone="worst", method="", weights=None, cost=cost(0.1))
    records += seeds(79.0, backbone="single", method="moco", cost=cost(100.0))
    records += [result(backbone="worst", seed=3, status="failed", error="out of memory", weights=None)]
    records += seeds(90.0, 90.0, backbone="best", digest="0d" * 32, finished="2025-01-01T00:00:00+00:00")
    records += seeds(60.0, 60.1, 60.2, backbone="best", **tuned)
    records += seeds(40.0, 40.1, 40.1, backbone="tied", method="simmim", **tuned)
    return sections(records)


def cost(hours: float) -> dict[str, Any]:
    return {"device_hours": hours, "images_per_second": 100.0 / hours, "device": "CPU, 2 cores"}


@pytest.fixture
def page(chromium: Chromium, standings: list[Section], tmp_path: Path) -> Chromium:
    """The browser with the page of these standings open, light, 1280 pixels wide."""
    elsewhere = Published(
        task="segmentation/voc",
        backbone="ViT-B/16",
        method="mae",
        pretraining="ImageNet-1k",
        protocol="UPerNet",
        metric="mIoU",
        value=99.9,
        source="a paper, table 1",
    )
    write(standings, [elsewhere], tmp_path)
    chromium.look()
    chromium.open(tmp_path / "index.html")
    return chromium
