"""Huge pages for processes that stream weights.

A decode step reads all weights once. In pages of 4 KiB a core looks up an address every 4 KiB, and which
lines share a place in its cache is the luck of physical pages. glibc can ask the kernel for huge ones, if
it is told so when a process starts; a kernel that has none to give, and other C libraries, ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment whose processes ask for huge pages, unless it says something of them already."""
    tunables = [each for each in environment.get(_VARIABLE, "").split(":") if each]
    if not any(each.startswith(f"{_TUNABLE}=") for each in tunables):
        tunables.append(f"{_TUNABLE}=1")
    return {**environment, _VARIABLE: ":".join(tunables)}
