"""The files for TLS: read, and looked at before gRPC gets them.

The rule: a file that cannot serve is named at once, as `Misconfigured`. gRPC would take it for a server that is down,
and a campaign would wait for that to come back.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

from coordkit.backends.etcd import stubs
from coordkit.errors import Misconfigured


def credentials(ca: str, cert: str, key: str) -> Any:
    """Credentials for channels, of files in PEM; an empty path: none. Without `ca` those that gRPC trusts."""
    contents = {path: _content(path) for path in (ca, cert, key)}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")  # what is too weak is for gRPC and the server to say
    if ca:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ValueError) as error:
            raise _misconfigured(f"the file {ca!r} of the URL holds no certificate in PEM") from error
    if cert:
        try:
            context.load_cert_chain(cert, key, password=lambda: "")  # else it would ask at the terminal
        except (OSError, ValueError) as error:
            raise _misconfigured(
                f"the files {cert!r} and {key!r} of the URL are not a certificate and its private key in PEM, "
                "the key without a password"
            ) from error
    return stubs.tls_credentials(contents[ca], contents[key], contents[cert])


def _content(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise _misconfigured(f"the file {path!r} of the URL: {reason}") from error
    except ValueError as error:  # a NUL in its name
        raise _misconfigured(f"the file {path!r} of the URL: no such name") from error


def _misconfigured(told: str) -> Misconfigured:
    return Misconfigured(told, backend="etcd", operation="open")
