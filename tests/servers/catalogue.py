"""What the tests need of Debian, a row for each server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """Packages, and the programs and libraries that they are wanted for."""

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


CATALOGUE = (Need("faketime", packages=("libfaketime",), libraries=("libfaketime.so.1",)),)
