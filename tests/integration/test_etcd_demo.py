"""`coordkit demo` on etcd: the whole story, in real processes, on a real cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from tests.servers.etcd import Etcd
from tests.support.children import ROOT

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.timeout(110)]


def test_the_demo_shows_all_of_it_on_etcd(etcd: Etcd[Any]) -> None:
    command = [sys.executable, "-m", "coordkit", "demo", "--url", etcd.url("demo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all of it was seen" in done.stdout
    assert re.search(r"refuses it: StaleToken", done.stdout)
    assert re.search(r"3 terms, no two overlap", done.stdout)
    tokens = [int(token) for token in re.findall(r"leads with token (\d+)", done.stdout)]
    assert len(tokens) == 3
    assert tokens == sorted(set(tokens))
    assert not [key for key in etcd.keys("demo/") if b".coordkit" not in key.key], "nothing but records is left"
