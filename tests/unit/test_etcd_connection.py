"""The way to etcd, as far as no server is needed to look at it."""

from __future__ import annotations

from typing import Any

import pytest

from coordkit.backends.etcd import connection as module
from coordkit.backends.etcd import stubs, tls
from coordkit.backends.etcd.connection import Connection, Target
from coordkit.engine import current
from coordkit.errors import Misconfigured


class Channels:
    """In gRPC's place: remembers with which credentials channels were made."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def secure_channel(self, _target: str, credentials: Any, options: Any) -> object:
        self.made.append(credentials)
        return object()


@pytest.fixture
def channels(monkeypatch: pytest.MonkeyPatch) -> Channels:
    channels = Channels()
    monkeypatch.setattr(stubs, "grpc_aio", lambda: channels)
    monkeypatch.setattr(module._forked, "opened", lambda: None)
    return channels


def test_certificates_are_read_anew_for_each_connection(
    channels: Channels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are renewed on disk. What cannot be read just now must not end a session that has read it before."""
    found: list[object] = ["first", "second", Misconfigured("half written"), "third"]

    def read(*_: str) -> object:
        content = found.pop(0)
        if isinstance(content, Misconfigured):
            raise content
        return content

    monkeypatch.setattr(tls, "credentials", read)
    made = Connection(Target(("h:2379",), tls=True, ca="ca.pem"), current())
    for _ in range(4):
        made._channel("h:2379")
    assert channels.made == ["first", "second", "second", "third"]
    current().log.flush(5.0)
    assert "half written" in caplog.text


def test_certificates_that_could_never_be_read_are_told(channels: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> object:
        raise Misconfigured("no such file")

    monkeypatch.setattr(tls, "credentials", refuse)
    made = Connection(Target(("h:2379",), tls=True, ca="ca.pem"), current())
    with pytest.raises(Misconfigured, match="no such file"):
        made._channel("h:2379")
    assert not channels.made


def test_a_target_shows_no_password() -> None:
    target = Target(("h:2379",), user="u", password="s3cret")
    assert "s3cret" not in repr(target)
