"""Credentials for channels of gRPC, from files.

The rule: gRPC gets what the files hold only after they have been looked at (`pem`).
"""

from __future__ import annotations

from typing import Any

from coordkit.backends import pem
from coordkit.backends.etcd import stubs

ANY_CIPHERS = "ALL:@SECLEVEL=0"  # what is too weak is for gRPC and the server to say


def credentials(ca: str, cert: str, key: str) -> Any:
    """Credentials for channels, of files in PEM; an empty path: none. Without `ca` those that gRPC trusts."""
    contents = [pem.content(path, backend="etcd") for path in (ca, key, cert)]
    pem.context(ca, cert, key, backend="etcd", ciphers=ANY_CIPHERS)
    return stubs.tls_credentials(*contents)
