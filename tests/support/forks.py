"""Parents that fork, on any store that processes share: what a child inherits is refused, and nobody is disturbed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.integration import fork_scenes
from tests.support.children import Child


def refused_what_was_open(url: str) -> None:
    with Child(fork_scenes.open_term, url) as parent:
        assert parent.line() == "child 0"
        assert parent.line() == "ended False []"
        parent.expect("parent")
        assert parent.exit_code() == 0
        assert parent.complaints == "", parent.complaints


def began_afresh(url: str) -> None:
    with Child(fork_scenes.preload, url) as parent:
        tokens = [int(parent.expect("led").split()[1]) for _ in range(4)]
        assert parent.expect("exits") == "0 0 0 0"
        tokens.append(int(parent.expect("led").split()[1]))
        assert parent.exit_code() == 0
        assert parent.complaints == "", parent.complaints
    assert tokens == sorted(set(tokens))


def left_its_parents_block(url: str, how: str, code: int) -> None:
    with Child(fork_scenes.block_across_forks, url, how) as parent:
        parent.expect("leads")
        assert parent.expect("exit") == str(code)
        assert parent.expect("ended") == "False"
        parent.expect("left")
        assert parent.exit_code() == 0
        assert parent.complaints == "", parent.complaints


# By name: elections of the same name are in several, so each needs a store, or a part of one, of its own.
FORKS: dict[str, Callable[[str], None]] = {
    "open": refused_what_was_open,
    "unused": began_afresh,
    "sys.exit": partial(left_its_parents_block, how="sys.exit", code=3),
    "os._exit": partial(left_its_parents_block, how="os._exit", code=3),
    "the end": partial(left_its_parents_block, how="the end", code=0),
}
