"""`coordkit demo` on ZooKeeper: the whole story, in real processes, on a real ensemble."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from tests.servers.zookeeper import ZooKeeper
from tests.support.children import ROOT

pytestmark = [pytest.mark.backend("zookeeper"), pytest.mark.timeout(110)]


def test_the_demo_shows_all_of_it_on_zookeeper(zookeeper: ZooKeeper[Any]) -> None:
    zookeeper.put("/demo")
    command = [sys.executable, "-m", "coordkit", "demo", "--url", zookeeper.url("demo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all of it was seen" in done.stdout
    assert re.search(r"refuses it: StaleToken", done.stdout)
    assert re.search(r"3 terms, no two overlap", done.stdout)
    tokens = [int(token) for token in re.findall(r"leads with token (\d+)", done.stdout)]
    assert len(tokens) == 3
    assert tokens == sorted(set(tokens))
    assert not [node.path for node in zookeeper.nodes("/demo") if node.ephemeral_owner], "nobody is in a queue"
    assert zookeeper.sessions() == []
