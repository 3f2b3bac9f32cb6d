"""Reads pages of the report, and what a name may try."""

from __future__ import annotations

from html.parser import HTMLParser

from disaggc.targets import load_library

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
KNOWN = load_library(None).sources


class Page(HTMLParser):
    """Tags with their attributes, and all text outside style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
