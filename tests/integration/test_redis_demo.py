"""`coordkit demo` on Redis: the whole story, in real processes, on five real voters."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from tests.servers.redis import Redis
from tests.support.children import ROOT
from tests.support.voting import fields_of, mark_new

pytestmark = [pytest.mark.backend("redis"), pytest.mark.timeout(110)]


def test_the_demo_shows_all_of_it_on_redis(redis: Redis[Any]) -> None:
    url = redis.url()
    mark_new(redis, url)
    command = [sys.executable, "-m", "coordkit", "demo", "--url", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all of it was seen" in done.stdout
    assert re.search(r"refuses it: StaleToken", done.stdout)
    assert re.search(r"3 terms, no two overlap", done.stdout)
    tokens = [int(token) for token in re.findall(r"leads with token (\d+)", done.stdout)]
    assert len(tokens) == 3
    assert tokens == sorted(set(tokens))
    held = [
        text for fields in fields_of(redis) for name, text in fields.items() if name != "marker" and " held " in text
    ]
    assert held == [], "no seat is held"
