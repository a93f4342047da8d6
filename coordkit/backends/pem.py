"""The files for TLS: read, and looked at before a client library gets them.

The rule: a file that cannot serve is named at once, as `Misconfigured`. A client library would take it for a server
that is down, and a campaign would wait for that to come back.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from coordkit.errors import Misconfigured


def context(ca: str, cert: str, key: str, *, backend: str, ciphers: str = "") -> ssl.SSLContext:
    """How to connect with these files in PEM; an empty path: none. Without `ca` those that the machine trusts."""
    for path in (ca, cert, key):
        content(path, backend=backend)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ciphers:
        made.set_ciphers(ciphers)
    if ca:
        try:
            made.load_verify_locations(cafile=ca)
        except (OSError, ValueError) as error:
            raise _misconfigured(f"the file {ca!r} of the URL holds no certificate in PEM", backend) from error
    else:
        made.load_default_certs()
    if cert:
        try:
            made.load_cert_chain(cert, key, password=lambda: "")  # else it would ask at the terminal
        except (OSError, ValueError) as error:
            raise _misconfigured(
                f"the files {cert!r} and {key!r} of the URL are not a certificate and its private key in PEM, "
                "the key without a password",
                backend,
            ) from error
    return made


def content(path: str, *, backend: str) -> bytes | None:
    """What a file holds; None for an empty path."""
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise _misconfigured(f"the file {path!r} of the URL: {reason}", backend) from error
    except ValueError as error:  # a NUL in its name
        raise _misconfigured(f"the file {path!r} of the URL: no such name", backend) from error


def _misconfigured(told: str, backend: str) -> Misconfigured:
    return Misconfigured(told, backend=backend, operation="open")
