"""What `coordkit.testing` gives to the tests of a program: the fixtures, and the faults of a store in this process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import coordkit
from coordkit import testing
from coordkit.backends import memory

PROGRAM = """
import threading
import pytest
import coordkit

def test_a_program_on_a_partitioned_store(memory_url, memory_faults):
    told = threading.Event()
    elector = coordkit.LeaderElector(memory_url, "orders", ttl=0.5)
    with pytest.raises(coordkit.LeadershipLost):
        with elector.lead(timeout=10.0) as term:
            assert memory_faults.entries("orders") == (term.candidate.id,)
            assert memory_faults.elections() == ("orders",)
            term.on_lost(lambda term: told.set())
            memory_faults.cut()
            assert told.wait(10.0)
    memory_faults.heal()
    elector.close()

def test_another_store(memory_url):
    assert coordkit.LeaderElector(memory_url, "orders").leader() is None

def test_on_virtual_time(virtual_world):
    elector = virtual_world.process("a").elector("orders", ttl=2.0)
    campaign = elector.process.start(elector.campaign())
    virtual_world.run_until(campaign.done)
    elector.process.pause()
    virtual_world.run(5.0)
    elector.process.resume()
    assert campaign.result().ended() is not None
    with pytest.raises(TimeoutError, match="not within 1 s of virtual time"):
        virtual_world.run_until(lambda: False, limit=1.0)
"""


def test_the_fixtures_serve_a_program(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["coordkit.testing.fixtures"]\n', encoding="utf-8")
    (tmp_path / "test_program.py").write_text(PROGRAM, encoding="utf-8")
    arguments = ["-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Iterator[Callable[..., coordkit.Term]]:
    """Makes terms on `memory://faults?link=…`, which end with the test."""

    def make(link: str = "", ttl: float = 20.0, timeout: float = 10.0) -> coordkit.Term:
        elector = coordkit.LeaderElector(f"memory://faults?link={link}", "orders", ttl=ttl)
        request.addfinalizer(lambda: elector.close(timeout=5.0))
        return elector.campaign(timeout=timeout)

    yield make
    memory.stores.pop("faults", None)


def test_a_partition_befalls_one_link_alone(campaign: Callable[..., coordkit.Term]) -> None:
    with testing.faults("faults", "left") as left:
        left.cut(refused=True)
        with pytest.raises(coordkit.CampaignTimeout) as failed:
            campaign("left", timeout=0.3)
        assert isinstance(failed.value.__cause__, coordkit.Unavailable)
        term = campaign("right")
        left.heal()
        assert left.entries("orders") == (term.candidate.id,)
        term.resign()
        campaign("left").resign()


def test_faults_are_put_on_a_link_that_is_in_use(campaign: Callable[..., coordkit.Term]) -> None:
    told = threading.Event()
    term = campaign(ttl=1.0)
    term.on_lost(lambda _: told.set())
    with testing.faults("faults") as faults:
        faults.cut()
        assert told.wait(10.0)
    assert term.reason is coordkit.LossReason.EXPIRED


def test_a_lost_reply_costs_nothing_but_time(campaign: Callable[..., coordkit.Term]) -> None:
    with testing.faults("faults") as faults:
        faults.spare_replies()  # to open
        faults.lose_replies()
        term = campaign(ttl=3.0)
        assert faults.entries("orders") == (term.candidate.id,), "the entry of the first try, whose answer was lost"
        term.resign()


def test_an_expiry_revokes(campaign: Callable[..., coordkit.Term]) -> None:
    term = campaign()
    testing.faults("faults").expire("orders")
    assert term.wait_ended(10.0)
    assert term.reason is coordkit.LossReason.REVOKED


def test_amnesia_forgets_all_and_tokens_rise(campaign: Callable[..., coordkit.Term]) -> None:
    """The fault that `guarantees.not_covered` names: two terms, until the first one asks."""
    term = campaign()
    faults = testing.faults("faults")
    faults.forget()
    assert faults.elections() == ()
    successor = campaign()
    assert successor.token > term.token
    assert term.wait_ended(10.0)
    assert term.reason is coordkit.LossReason.REVOKED
    successor.resign()
