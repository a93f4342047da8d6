"""ZooKeeper's own protocol, byte by byte: a connection for as long as a question takes. No client library, no thread.

The rule: a session is made by a transaction, so a server that has given one is of the majority. Every wait ends: what
does not come in time is an `OSError`.

Whoever knows a session and its password may return to it, and close it. The servers make the password from the id
alone, with a secret that is no secret (it stands in ZooKeeper's source): so these tests can end every session.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Self

NO_NODE, NODE_EXISTS, NOT_EMPTY = -101, -110, -111
_CREATE, _DELETE, _GET_DATA, _SET_DATA, _SYNC, _GET_CHILDREN, _AUTH, _SASL, _CLOSE = 1, 2, 4, 5, 9, 8, 100, 102, -11
_OF_NO_REQUEST = (-1, -2)  # a watch, a ping
_AUTH_NUMBER = -4
_EXPIRY_NUMBER = 0  # which the servers themselves give to the end of a session that has expired
_SECRET = 0xB3415C00
_EVERYBODY = struct.pack(">ii", 1, 31) + struct.pack(">i5si6s", 5, b"world", 6, b"anyone")


class Refused(Exception):
    """The store's answer is an error; `code` is ZooKeeper's number for it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"ZooKeeper's error {code}")
        self.code = code


class NoSession(Exception):
    """The server does not know the session that was returned to."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node as it is stored. `ephemeral_owner` is 0 where no session owns it."""

    path: str
    data: bytes
    czxid: int
    mzxid: int
    version: int
    ephemeral_owner: int


class Wire:
    """A session with one server, closed with its connection. A context manager."""

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None = None, *, timeout: float = 5.0, session: int = 0
    ) -> None:
        self._number = 0
        plain = socket.create_connection((host, port), timeout=timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = tls.wrap_socket(plain, server_hostname=host) if tls else plain
            self._answers = self._socket.makefile("rb")
        except BaseException:
            plain.close()
            raise
        try:
            self._open(timeout, session)
        except BaseException:
            self.hang_up()
            raise

    def _open(self, timeout: float, session: int) -> None:
        # version of the protocol, newest transaction seen, timeout in ms, session, password, read-only
        asked = struct.pack(">iqiq", 0, 0, round(timeout * 1000), session)
        self._send(asked + _buffer(password(session) if session else bytes(16)) + b"\0")
        _, granted, self.session = struct.unpack_from(">iiq", self._receive())
        if granted <= 0 or self.session == 0:
            raise NoSession(f"{session:#x}")

    def close(self) -> None:
        """End the session, and wait until the servers have ended it."""
        try:
            # Of a session that is returned to, the servers may still have a request with any other number.
            self._request(_CLOSE, number=_EXPIRY_NUMBER)
        finally:
            self.hang_up()

    def log_in(self, user: str, password: str) -> None:
        """By the scheme `digest`; what a user may do is seen later."""
        name = _buffer(b"digest")
        self._request(_AUTH, struct.pack(">i", 0) + name + _buffer(f"{user}:{password}".encode()), number=_AUTH_NUMBER)

    def log_in_by_sasl(self, user: str, password: str) -> None:
        """By SASL, with DIGEST-MD5; `Refused` if the password is wrong."""
        challenge = self._request(_SASL, _buffer(b""))[4:]
        self._request(_SASL, _buffer(digest_md5(challenge.decode(), user, password, secrets.token_hex(16)).encode()))

    def sync(self) -> None:
        """What is read from now on is no older than this moment."""
        self._request(_SYNC, _text("/"))

    def children(self, path: str) -> list[str]:
        """Their names, in no order."""
        answer = self._request(_GET_CHILDREN, _text(path) + b"\0")
        (count,) = struct.unpack_from(">i", answer)
        names, at = [], 4
        for _ in range(count):
            name = _buffer_at(answer, at)
            names.append(name.decode())
            at += 4 + len(name)
        return names

    def node(self, path: str) -> Node:
        answer = self._request(_GET_DATA, _text(path) + b"\0")
        data = _buffer_at(answer, 0)
        # czxid, mzxid, ctime, mtime, version, cversion, aversion, ephemeralOwner, …
        stat = struct.unpack_from(">qqqqiiiq", answer, 4 + len(data))
        return Node(path, data, stat[0], stat[1], stat[4], stat[7])

    def create(self, path: str, data: bytes) -> None:
        """A lasting node that everybody may do everything to."""
        self._request(_CREATE, _text(path) + _buffer(data) + _EVERYBODY + struct.pack(">i", 0))

    def write(self, path: str, data: bytes) -> None:
        self._request(_SET_DATA, _text(path) + _buffer(data) + struct.pack(">i", -1))

    def delete(self, path: str) -> None:
        self._request(_DELETE, _text(path) + struct.pack(">i", -1))

    def _request(self, kind: int, body: bytes = b"", number: int | None = None) -> bytes:
        if number is None:
            self._number += 1
            number = self._number
        self._send(struct.pack(">ii", number, kind) + body)
        while True:
            answer = self._receive()
            of, _, error = struct.unpack_from(">iqi", answer)
            if of not in _OF_NO_REQUEST:
                break
        if error:
            raise Refused(error)
        return answer[16:]

    def _send(self, message: bytes) -> None:
        self._socket.sendall(_buffer(message))

    def _receive(self) -> bytes:
        (length,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = self._answers.read(length)
        if len(data) != length:
            raise ConnectionError("the server closed the connection before it answered")
        return data

    def hang_up(self) -> None:
        """Close the connection without a word; the session lives on for its timeout. Harmless twice."""
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            self.close()
        else:
            self.hang_up()


def password(session: int) -> bytes:
    """What the servers ask of a client that returns: Java's `Random`, seeded with the id."""
    state = ((session ^ _SECRET) ^ 0x5DEECE66D) & ((1 << 48) - 1)
    made = b""
    for _ in range(4):
        state = (state * 0x5DEECE66D + 0xB) & ((1 << 48) - 1)
        made += (state >> 16).to_bytes(4, "little")
    return made


def digest_md5(challenge: str, user: str, password: str, cnonce: str, *, service: str = "zookeeper") -> str:
    """The response to a server's challenge (RFC 2831), as long as user and password are of Latin-1."""
    offered = {name: quoted or bare for name, quoted, bare in re.findall(r'([\w-]+)=(?:"([^"]*)"|([^,]*))', challenge)}
    realm, nonce, uri = offered.get("realm", ""), offered["nonce"], f"{service}/{offered.get('realm', '')}"

    def md5(text: bytes) -> bytes:
        return hashlib.md5(text, usedforsecurity=False).digest()

    secret = md5(f"{user}:{realm}:{password}".encode("latin-1")) + f":{nonce}:{cnonce}".encode()
    proof = md5(
        f"{md5(secret).hex()}:{nonce}:00000001:{cnonce}:auth:{md5(f'AUTHENTICATE:{uri}'.encode()).hex()}".encode()
    )
    return (
        f'charset=utf-8,username="{user}",realm="{realm}",nonce="{nonce}",nc=00000001,cnonce="{cnonce}",'
        f'digest-uri="{uri}",maxbuf=65536,response={proof.hex()},qop=auth'
    )


def _buffer(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def _text(text: str) -> bytes:
    return _buffer(text.encode())


def _buffer_at(data: bytes, at: int) -> bytes:
    """A buffer of no bytes may be told by a length of -1."""
    (length,) = struct.unpack_from(">i", data, at)
    return data[at + 4 : at + 4 + max(0, length)]
