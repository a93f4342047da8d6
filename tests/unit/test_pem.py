"""The files for TLS are looked at before a client library gets them, and what is wrong with one is named."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from coordkit import Misconfigured
from coordkit.backends import pem
from coordkit.backends.etcd import tls
from tests.servers.certificates import Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


def test_files_that_can_serve_make_a_context_that_checks_names(certificates: Certificates) -> None:
    made = pem.context(
        str(certificates.authority), str(certificates.client), str(certificates.client_key), backend="zookeeper"
    )
    assert made.check_hostname
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert [each["subject"] for each in made.get_ca_certs()] == [((("commonName", "coordkit tests"),),)]


def test_without_an_authority_those_of_the_machine_are_trusted() -> None:
    assert pem.context("", "", "", backend="zookeeper", ciphers="ALL").check_hostname


def test_grpc_gets_what_the_files_hold(certificates: Certificates) -> None:
    assert tls.credentials(str(certificates.authority), str(certificates.client), str(certificates.client_key))


def test_the_context_connects_to_whom_it_trusts(certificates: Certificates) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificates.server, certificates.server_key)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with serving.wrap_socket(theirs, server_side=True) as secure:
            secure.sendall(b"hello")

    server = threading.Thread(target=serve)
    server.start()
    context = pem.context(str(certificates.authority), "", "", backend="zookeeper")
    with context.wrap_socket(ours, server_hostname="localhost") as secure:
        assert secure.recv(5) == b"hello"
    server.join()


def test_what_cannot_serve_is_named(certificates: Certificates, tmp_path: Path) -> None:
    nothing, empty = str(tmp_path / "nothing.pem"), tmp_path / "empty.pem"
    empty.write_text("no certificate")
    good = [str(certificates.client), str(certificates.client_key)]
    for ca, cert, key, named in (
        (nothing, "", "", "nothing.pem"),
        (str(tmp_path), "", "", "the URL: "),
        ("a\0b", "", "", "no such name"),
        (str(empty), "", "", "empty.pem"),
        ("", good[0], str(certificates.server_key), "client.pem"),
        ("", str(empty), good[1], "empty.pem"),
    ):
        with pytest.raises(Misconfigured, match=named) as refused:
            pem.context(ca, cert, key, backend="zookeeper")
        assert (refused.value.backend, refused.value.operation) == ("zookeeper", "open")
