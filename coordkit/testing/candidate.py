"""One candidate in a process of its own, for tests that kill it or stop it.

    python -m coordkit.testing.candidate URL ELECTION TTL [TERM_SECONDS]

It campaigns and prints a line for each thing that happens: `candidate ID`, `leading TOKEN`, `lost REASON`. It resigns
after TERM_SECONDS and campaigns again; without them it leads on. It ends when its standard input does.
"""

from __future__ import annotations

import sys
import threading

from coordkit import ElectorClosed, LeaderElector, LeadershipLost, Term


def main(url: str, election: str, ttl: float, seconds: float | None) -> None:
    elector = LeaderElector(url, election, ttl=ttl)

    def until_told() -> None:
        sys.stdin.read()
        elector.close()

    def lead(term: Term) -> None:
        tell("candidate", term.candidate.id)
        tell("leading", str(int(term.token)))
        if term.wait_ended(seconds):
            tell("lost", term.reason.value if term.reason else "resigned")

    threading.Thread(target=until_told, daemon=True).start()
    try:
        while True:
            try:
                with elector.lead() as term:
                    lead(term)
            except LeadershipLost:
                continue  # it has been told
    except ElectorClosed:
        return


def tell(*words: str) -> None:
    """One line, at once."""
    print(*words, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else None)
