"""`Session` where the store has one timeout per connection: the first elector says which, and the others have the same.

The rule: nothing is connected to; a session that does not fit is refused in the constructor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordkit import AsyncLeaderElector, ConfigError, LeaderElector, Session

URL = "zookeeper://127.0.0.1:1/p"
Make = Callable[..., Any]
both_faces = pytest.mark.parametrize("make", [LeaderElector, AsyncLeaderElector])


@both_faces
def test_a_second_ttl_on_one_session_is_refused_with_the_way_out(make: Make) -> None:
    session = Session(URL)
    make(session, "a", ttl=5.0)
    with pytest.raises(ConfigError, match=r"^ttl=6: zookeeper:// has one timeout per session, .*ttl=5; make a second"):
        make(session, "b", ttl=6.0)
    with pytest.raises(ConfigError, match="ttl=10"):
        make(session, "b")
    make(session, "b", ttl=5)
    session.close()


def test_a_face_of_the_other_kind_has_the_same_ttl_too() -> None:
    session = Session(URL)
    LeaderElector(session, "a", ttl=5.0)
    with pytest.raises(ConfigError, match="make a second Session"):
        AsyncLeaderElector(session, "b", ttl=6.0)


@both_faces
def test_an_elector_that_was_refused_decides_nothing(make: Make) -> None:
    session = Session(URL)
    for wrong in ({"ttl": 7.0, "label": "\n"}, {"ttl": 0.01}, {"ttl": 7.0, "hold": -1.0}):
        with pytest.raises(ConfigError):
            make(session, "a", **wrong)
    with pytest.raises(ConfigError):
        make(session, "", ttl=7.0)
    make(session, "a", ttl=5.0)


@both_faces
def test_a_second_session_may_have_another_ttl(make: Make) -> None:
    for ttl in (5.0, 6.0):
        make(Session(URL), "a", ttl=ttl)
        make(URL, "a", ttl=ttl)


@pytest.mark.parametrize("url", ["etcd://127.0.0.1:1/p", "memory://ttls"])
def test_elsewhere_electors_of_one_session_have_ttls_of_their_own(url: str) -> None:
    session = Session(url)
    for ttl in (5.0, 6.0):
        LeaderElector(session, "a", ttl=ttl)
