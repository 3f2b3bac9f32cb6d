"""The page in a real browser, where there is one: no message on its console, nothing beyond its edge."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from html_reading import KNOWN
from jobs import fleet_folder, tiny_plan

from disaggc.plans import open_fleet, open_plan
from disaggc.report import fleet_page, plan_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
MEASURE = (
    "<script>document.documentElement.dataset.widths = [document.documentElement.scrollWidth, innerWidth, "
    "[...document.querySelectorAll('main *')].filter(e => e.getClientRects().length && !e.closest('svg') && "
    "!e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 0.5).length].join()</script>"
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tiny_plan(tmp_path_factory.getbasetemp())
    return plan_page(open_plan(folder), folder, KNOWN)


@pytest.fixture(scope="module")
def fleet_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = fleet_folder(tmp_path_factory.getbasetemp())
    return fleet_page(open_fleet(folder), folder, KNOWN)


def _browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *FLAGS, profile, *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)  # noqa: S603


def _console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_console_stays_empty(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(text, encoding="utf-8")
    assert _console(_browse(page, "--dump-dom")) == []


def test_a_page_that_asked_for_more_would_be_noticed(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    asking = text.replace("</main>", '<img src="https://example.com/x.png" alt=""></main>')
    page.write_text(asking, encoding="utf-8")
    assert any("Content Security Policy" in line for line in _console(_browse(page, "--dump-dom")))


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_reaches_beyond_the_edge(width: int, text: str, tmp_path: Path) -> None:
    assert _beyond(text, width, tmp_path / "page.html") == 0


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_of_a_fleet_reaches_beyond_the_edge(width: int, fleet_text: str, tmp_path: Path) -> None:
    assert _beyond(fleet_text, width, tmp_path / "page.html") == 0


def _beyond(text: str, width: int, page: Path) -> int:
    """How many elements reach beyond the edge of a window, and by how many pixels the page does."""
    # Details are opened, so that their tables count; the policy goes, so that a script may measure.
    opened = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("<details>", "<details open>")
    page.write_text(opened.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    done = _browse(page, "--dump-dom", f"--window-size={width},900")
    found = re.search(r'data-widths="(\d+),(\d+),(\d+)"', done.stdout)
    assert found is not None
    scroll, inner, beyond = map(int, found.groups())
    return beyond + max(0, scroll - inner)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_follows_the_colour_scheme(scheme: str, text: str, tmp_path: Path) -> None:
    page, shot = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(text, encoding="utf-8")
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()
    _browse(page, *dark, "--window-size=390,844", f"--screenshot={shot}")
    data = shot.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (390, 844)
    assert (_corner(data) < (64, 64, 64)) == (scheme == "dark")


def _corner(png: bytes) -> tuple[int, int, int]:
    """Red, green and blue of the first pixel: no filter has a neighbour to lean on there."""
    at, packed = 8, b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        packed += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    raw = zlib.decompress(packed)
    return raw[1], raw[2], raw[3]
