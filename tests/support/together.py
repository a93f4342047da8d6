"""Several parts of one test at the same time, for parts that mostly wait.

The rule: each part is told of by its name, and one that fails keeps the others from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def together(parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What each returned; an `ExceptionGroup` of all that was raised, each with a note that names its part."""
    with ThreadPoolExecutor(max_workers=len(parts)) as pool:
        running = {name: pool.submit(part) for name, part in parts.items()}
    failed = []
    for name, future in running.items():
        if (error := future.exception()) is not None:
            error.add_note(f"in the part {name!r}")
            failed.append(error)
    if failed:
        raise BaseExceptionGroup(f"{len(failed)} of {len(parts)} parts failed", failed)
    return {name: future.result() for name, future in running.items()}
