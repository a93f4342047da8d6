"""One candidate of the demo, a process of its own: leads when elected, writes to the ledger, tells what it sees.

The rule: it reports what has happened to it and nothing else, a JSON line each, on standard output. What the demo
shows about a candidate is in these lines; `at` is seconds since the host booted.

It contends when it is given a byte on standard input. It ends by SIGTERM, handing over at once, and when its
standard input ends: it does not outlive the demo. The backend's URL comes in COORDKIT_URL, for others can read
command lines.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence

from coordkit import LeaderElector, LeadershipLost, StaleToken, Term, threads
from coordkit.cli.demo_ledger import Ledger
from coordkit.clock import host_boottime

WRITE_EVERY = 0.25  # s


def report(event: str, **fields: object) -> None:
    """One line, whole, whatever signal comes."""
    line = {"event": event, "at": host_boottime(), **fields}
    os.write(sys.stdout.fileno(), json.dumps(line).encode() + b"\n")


def contend(elector: LeaderElector, ledger: Ledger, label: str) -> None:
    """Be elected, write until the term is over, then write once more: what a leader would do that does not look."""
    term: Term | None = None
    try:
        with elector.lead() as term:
            report("elected", token=int(term.token), remaining=term.remaining())
            while not term.wait_ended(WRITE_EVERY):
                term.ensure()
                number = ledger.write(term.token, label)
                report("wrote", token=int(term.token), number=number)
    except (LeadershipLost, StaleToken):
        if term is None:
            raise
        # The term's own word, by the local clock: nothing is asked of the store here.
        report(
            "over",
            token=int(term.token),
            state=term.state.value,
            reason=term.reason.value if term.reason else None,
            remaining=term.remaining(),
        )
        write_all_the_same(term, ledger, label)


def write_all_the_same(term: Term, ledger: Ledger, label: str) -> None:
    """Write under the token of a term that is over."""
    try:
        number = ledger.write(term.token, label)
    except StaleToken as stale:
        report("refused", token=int(stale.offered), newest=int(stale.newest))
    else:
        report("accepted", token=int(term.token), number=number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Contend until told to end."""
    parser = argparse.ArgumentParser(prog="coordkit.cli.demo_candidate")
    for name in ("--election", "--label", "--ledger"):
        parser.add_argument(name, required=True)
    parser.add_argument("--ttl", type=float, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d ms %(message)s")

    ledger = Ledger(given.ledger)
    elector = LeaderElector(
        os.environ["COORDKIT_URL"], given.election, ttl=given.ttl, label=given.label, fences=[ledger.fence]
    )

    def end(*_: object) -> None:
        elector.close()
        sys.exit()  # unwinds the block, and so hands over at once

    def end_with_the_demo() -> None:
        os.read(sys.stdin.fileno(), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    report("ready")
    if not os.read(sys.stdin.fileno(), 1):
        return
    threads.start(end_with_the_demo)
    while True:
        contend(elector, ledger, given.label)


if __name__ == "__main__":
    main()
