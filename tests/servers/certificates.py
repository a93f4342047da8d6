"""An authority of the tests, with a certificate for servers on the loopback interface and one for their clients.

The rule: made anew for each use by the program openssl, valid for ten years from now, and trusted by nobody else.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.servers.fetch import program
from tests.servers.processes import Command

OPENSSL_SECONDS = 30.0
# A server that has a gateway to itself, as etcd has, shows its certificate as a client too. Nobody has a common name:
# etcd would take it for that of a user.
_CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:false
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
[client]
basicConstraints = CA:false
extendedKeyUsage = clientAuth
"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM: the authority's certificate, and certificate and key of a server and of a client."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make all of them in a folder that may exist."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "openssl.cnf").write_text(_CONFIGURATION, encoding="ascii")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        valid = ("-days", "3650")
        openssl(
            folder,
            *("req", "-x509", "-config", "openssl.cnf", "-extensions", "authority", *key, *valid),
            *("-subj", "/CN=coordkit tests", "-keyout", "authority.key", "-out", "authority.pem"),
        )
        for serial, role in enumerate(("server", "client"), start=1):
            openssl(
                folder,
                *("req", "-new", "-config", "openssl.cnf", *key, "-subj", f"/O=coordkit tests/OU={role}"),
                *("-keyout", f"{role}.key", "-out", f"{role}.csr"),
            )
            openssl(
                folder,
                *("x509", "-req", "-in", f"{role}.csr", "-CA", "authority.pem", "-CAkey", "authority.key"),
                *("-set_serial", str(serial), *valid, "-extfile", "openssl.cnf", "-extensions", role),
                *("-out", f"{role}.pem"),
            )
        names = ("authority.pem", "server.pem", "server.key", "client.pem", "client.key")
        return cls(*(folder / name for name in names))

    @property
    def of_a_client(self) -> dict[str, object]:
        """The options of a URL by which a client has them."""
        return {"ca": self.authority, "cert": self.client, "key": self.client_key}

    def expired(self) -> Path:
        """Another certificate of the client's, which is over."""
        folder = self.client.parent
        openssl(
            folder,
            *("x509", "-req", "-in", "client.csr", "-CA", "authority.pem", "-CAkey", "authority.key"),
            *("-set_serial", "9", "-days", "-1", "-extfile", "openssl.cnf", "-extensions", "client"),
            *("-out", "expired.pem"),
        )
        return folder / "expired.pem"


def openssl(folder: Path, *arguments: str) -> None:
    """Run it there, with the configuration that is there, if there is one."""
    configuration = folder / "openssl.cnf"
    own = {"OPENSSL_CONF": str(configuration)} if configuration.exists() else {}
    command = Command.of(program("openssl"), *arguments, **own)
    done = subprocess.run(
        command.arguments,
        env=command.environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=OPENSSL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr}")
