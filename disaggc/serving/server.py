"""The process: deployments opened, a socket bound, an end that lets answers end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn

from disaggc.errors import JobError
from disaggc.serving.app import Api, make_app
from disaggc.serving.problems import draining

_LOOK_S = 0.05
_CLOSE_S = 5
"""How long connections may take to close once everything is answered."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where to listen, and how to end.

    Attributes:
        host, port: Of the socket; port 0 takes any that is free.
        drain_s: How long answers may take to end after SIGTERM or SIGINT; then they end with an error.
        access_log: Whether to log each request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    drain_s: float = 30.0
    access_log: bool = False


def bind(listening: Listening) -> socket.socket:
    """A socket that is bound, so that its port is known and nobody else takes it.

    Raises:
        JobError: It cannot be.
    """
    try:
        infos = socket.getaddrinfo(listening.host, listening.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = infos[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise JobError(
            f"Cannot listen on {listening.host}:{listening.port}: {error}. Choose another --host or --port; "
            f"--port 0 takes any that is free."
        ) from error
    bound.set_inheritable(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """The socket's URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn that goes on listening, and answers that it is about to end, until all is answered."""

    def __init__(self, api: Api, listening: Listening, ready: Callable[[], None]) -> None:
        """Prepare.

        Args:
            api: What answers.
            listening: How to end.
            ready: Called when requests are taken.
        """
        config = uvicorn.Config(
            make_app(api),
            lifespan="off",
            log_level="info" if listening.access_log else "warning",
            access_log=listening.access_log,
            timeout_graceful_shutdown=_CLOSE_S,
            server_header=False,
        )
        super().__init__(config)
        self._api = api
        self._drain_s = listening.drain_s
        self._ready = ready
        self._is_asked_to_end = False

    def end(self) -> None:
        """Take no more requests, let those that are open end, then stop; from any thread, or a signal."""
        self._is_asked_to_end = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """The first signal drains, a second one ends at once; none of them ends the process unclean."""
        if self._is_asked_to_end:
            self._drain_s = 0.0
        self.end()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def main_loop(self) -> None:
        """Serve until asked to end, and then until all is answered, or for as long as may be."""
        serving = asyncio.ensure_future(super().main_loop())
        while not self._is_asked_to_end:
            await asyncio.sleep(_LOOK_S)
        self._api.is_draining = True
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while self._api.open and loop.time() < begun + self._drain_s:
            await asyncio.sleep(_LOOK_S)
        for exchange in tuple(self._api.open):
            exchange.end_with(draining())
        self.should_exit = True
        await serving


def serve(api: Api, bound: socket.socket, listening: Listening, ready: Callable[[], None]) -> None:
    """Answer requests on a bound socket until SIGTERM or SIGINT."""
    server = Server(api, listening, ready)
    asyncio.run(server.serve([bound]))
