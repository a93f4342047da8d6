"""What the tests need of Debian, a row for each server."""

from __future__ import annotations

from dataclasses import dataclass

NEWER = "trixie"  # whose etcd is 3.5.16; the release before it has 3.4.23


@dataclass(frozen=True, slots=True)
class Need:
    """Packages, and the programs and libraries that they are wanted for. `release`: of that one, not the machine's."""

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    release: str = ""


CATALOGUE = (
    Need("faketime", packages=("libfaketime",), libraries=("libfaketime.so.1",)),
    Need("etcd", packages=("etcd-server", "etcd-client"), programs=("etcd", "etcdctl")),
    Need("etcd-newer", packages=("etcd-server", "etcd-client"), programs=("etcd", "etcdctl"), release=NEWER),
    Need("openssl", packages=("openssl",), programs=("openssl",)),
)
