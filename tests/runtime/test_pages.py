"""Executors' processes ask for huge pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from disaggc.runtime.pages import with_huge_pages

from .fleets import PROMPTS, cut, fleet, on_processes
from .test_processes import TINY

ASKED = "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ASKED),
        ("", ASKED),
        ("glibc.malloc.arena_max=2", f"glibc.malloc.arena_max=2:{ASKED}"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("glibc.malloc.hugetlb=2:glibc.cpu.x=1", "glibc.malloc.hugetlb=2:glibc.cpu.x=1"),
    ],
)
def test_what_somebody_said_already_stays(given: str | None, expected: str) -> None:
    environment = {"PATH": "/bin"} if given is None else {"PATH": "/bin", "GLIBC_TUNABLES": given}
    found = with_huge_pages(environment)
    assert found == {"PATH": "/bin", "GLIBC_TUNABLES": expected}
    assert with_huge_pages(found) == found


def test_an_executors_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("only Linux shows the environment of a process")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=3")
    plan = cut(TINY, tmp_path)
    with fleet(plan, tmp_path, TINY, on_processes()) as (deployment, processes):
        deployment.generate(PROMPTS[:1], 2)
        for pid in processes.pids.values():
            told = Path(f"/proc/{pid}/environ").read_bytes()
            assert ASKED.encode() in told
