"""Serves plans behind OpenAI's HTTP API: completions, chats, streams, tiers with queues, metrics.

``parts_of`` and ``open_lineup`` open a plan or a fleet; ``Api`` answers; ``bind`` and ``serve`` listen. It
needs the extra 'serve' (starlette, uvicorn, prometheus-client).
"""

from disaggc.serving.app import Api, Rules, make_app
from disaggc.serving.opening import Choices, Part, language_of, open_lineup, parts_of
from disaggc.serving.server import Listening, Server, address_of, bind, serve
from disaggc.serving.tiers import Lineup, Tier

__all__ = [
    "Api",
    "Choices",
    "Lineup",
    "Listening",
    "Part",
    "Rules",
    "Server",
    "Tier",
    "address_of",
    "bind",
    "language_of",
    "make_app",
    "open_lineup",
    "parts_of",
    "serve",
]
