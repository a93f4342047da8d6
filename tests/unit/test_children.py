"""The processes of tests: none outlives its test, and none makes its test wait."""

from __future__ import annotations

import os
import signal
from select import select

import pytest

from tests.support.children import PATIENCE, Child, hear, say


def leaves_a_child(ends: str) -> None:
    """A grandchild of the test holds the output, and reads an input that never ends."""
    kept = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(kept[0], 1)
    say("child", pid)
    if ends == "ends":
        os._exit(0)
    hear()


@pytest.mark.parametrize("how", ["ends", "stays"])
def test_what_a_scene_has_left_running_ends_with_it(how: str) -> None:
    with Child(leaves_a_child, how) as child:
        left = os.pidfd_open(int(child.expect("child")))
        if how == "ends":
            assert child.exit_code() == 0
    with os.fdopen(left):
        assert select([left], [], [], PATIENCE)[0], "it runs on"


def test_a_failure_in_the_block_is_the_one_that_is_told() -> None:
    with pytest.raises(AssertionError, match="of the test"), Child(leaves_a_child, "ends") as child:
        child.expect("child")
        raise AssertionError("of the test")


def test_a_scene_gets_signals() -> None:
    with Child(leaves_a_child, "stays") as child:
        child.expect("child")
        child.send(signal.SIGTERM)
        assert child.exit_code() == -signal.SIGTERM
