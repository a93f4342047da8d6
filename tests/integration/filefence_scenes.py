"""Processes that write by a `FileFence` and are killed at it."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

from coordkit import FencingToken, StaleToken
from coordkit.fencing import FileFence
from tests.support.children import hear, say

STEPS = ("open", "write", "fsync", "replace", "fchmod", "unlink", "close")  # of `os`, in which the file's fate lies


def content_of(value: int) -> str:
    """What is written under a token: whole, or visibly not."""
    return f"{value}\n" + f"{value:020d}\n" * 2000 + f"{value}\n"


def written_under(content: str) -> int:
    """The token of a whole content; anything else fails."""
    value = int(content.partition("\n")[0])
    assert content == content_of(value), "a mixture"
    return value


def writes_for_ever(path: str, first: str) -> None:
    """One write after another, each under a higher token, until it is killed."""
    fence = FileFence(path)
    for value in itertools.count(int(first)):
        fence.write(FencingToken("e", value), content_of(value))
        if value == int(first):
            say("writing")


def dies_at(path: str, value: str, step: str) -> None:
    """Killed just before the so-manieth step of a write, or it says that there were fewer."""
    left = int(step)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step_or_die(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*arguments, **named)

        return step_or_die

    fence, token = FileFence(path), FencingToken("e", int(value))
    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    fence.write(token, content_of(int(value)))
    os._exit(0)


def writes_interleaved(path: str, writers: str, number: str, steps: str) -> None:
    """So many writes under tokens between those of the others; says which were accepted."""
    fence = FileFence(path, timeout=60)
    hear()
    for step in range(int(steps)):
        value = 1 + step * int(writers) + int(number)
        try:
            fence.update(FencingToken("e", value), lambda old, value=value: old + f"{value}\n".encode())
        except StaleToken:
            continue
        say("accepted", value)
    say("done")


def holds(path: str) -> None:
    """Is in the middle of a write until it is told to go on."""

    def change(_: bytes) -> bytes:
        say("inside")
        hear()
        return b"late"

    FileFence(path).update(FencingToken("e", 1), change)
    say("written")
