"""Proves to both ends of a connection that the other knows the secret of the run, without sending it.

Each end draws a nonce; each answers with an HMAC-SHA256 over both, and the one that calls says in its
own who it is. That keeps strangers out, and those who listen learn no secret. What is sent afterwards
is neither encrypted nor signed: the network between executors must be one that only they are on.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import struct
from dataclasses import dataclass
from time import monotonic

from disaggc.errors import ExecutorError
from disaggc.records import structure, unstructure
from disaggc.runtime.messages import Address

HANDSHAKE_S = 10.0
_NONCE = 32
_PROOF = 32
_LENGTH = struct.Struct("<H")
_WELCOME = b"\1"


class HandshakeError(ExecutorError):
    """The other end is not of this run, or does not answer."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who calls, and what for.

    Attributes:
        purpose: 'orders' and 'results' for the driver's two connections, 'peer' for executors.
        pool, instance: Who calls; the driver is ''.
        epoch: Counts the times that connections were made anew.
    """

    purpose: str
    pool: str = ""
    instance: int = 0
    epoch: int = 0


def dial(host: str, port: int, secret: str, hello: Hello, seconds: float = HANDSHAKE_S) -> socket.socket:
    """A connection to an executor of this run.

    Raises:
        HandshakeError: Nobody answers in time, or somebody else does.
    """
    end = monotonic() + seconds
    try:
        connection = socket.create_connection((host, port), max(seconds, 0.1))
        try:
            _introduce(connection, secret.encode(), hello, end)
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise HandshakeError(f"no connection to {host}:{port} ({error.strerror or 'timed out'})") from error
    return connection


def admit(connection: socket.socket, secret: str, seconds: float = HANDSHAKE_S) -> Hello:
    """Who calls, once that is proved.

    Raises:
        HandshakeError: It is not of this run.
        OSError: It hangs up, or says nothing for long.
    """
    end = monotonic() + seconds
    key = secret.encode()
    theirs = _exactly(connection, _NONCE, end)
    mine = secrets.token_bytes(_NONCE)
    connection.sendall(mine + _proof(key, b"called", theirs, mine))
    proof = _exactly(connection, _PROOF, end)
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, end))
    body = _exactly(connection, length, end)
    if not hmac.compare_digest(proof, _proof(key, b"caller", mine, theirs, body)):
        raise HandshakeError("a stranger calls")
    hello = structure(json.loads(body), Hello, "hello", HandshakeError)
    connection.sendall(_WELCOME)
    return hello


def address_of(hello: Hello) -> Address:
    """Who says it."""
    return Address(hello.pool, hello.instance)


def _introduce(connection: socket.socket, key: bytes, hello: Hello, end: float) -> None:
    mine = secrets.token_bytes(_NONCE)
    connection.settimeout(max(end - monotonic(), 0.1))
    connection.sendall(mine)
    theirs = _exactly(connection, _NONCE, end)
    proof = _exactly(connection, _PROOF, end)
    if not hmac.compare_digest(proof, _proof(key, b"called", mine, theirs)):
        raise HandshakeError("somebody answers that is not of this run")
    body = json.dumps(unstructure(hello)).encode()
    connection.sendall(_proof(key, b"caller", theirs, mine, body) + _LENGTH.pack(len(body)) + body)
    _exactly(connection, len(_WELCOME), end)


def _proof(key: bytes, role: bytes, *parts: bytes) -> bytes:
    """Whose role is in it, so that no proof can be sent back as one's own; nonces have one length."""
    return hmac.digest(key, role + b"".join(parts), "sha256")


def _exactly(connection: socket.socket, size: int, end: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        connection.settimeout(max(end - monotonic(), 1e-3))
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError(104, "the other side hung up")
        data += part
    return bytes(data)
