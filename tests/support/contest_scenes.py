"""A candidate that leads whenever it can and writes all the while, in a process of its own, told by its test.

Lines to the test: `contends`, `leads TOKEN`, `lost TOKEN REASON`, `resigned TOKEN`, `fails KIND`, `late WORD`.
Orders of the test: `late TOKEN`, a write with a token of before; `leave`, once it does not want to lead any more.
"""

from __future__ import annotations

import sys
import threading

from coordkit import BackendError, ElectorClosed, FencingToken, LeaderElector, LeadershipLost, Term
from tests.support.children import hear, say
from tests.support.writes import Writer

BETWEEN = 0.05  # s from one write to the next
AGAIN = 0.5  # s after a campaign that was refused


def lead_and_write(url: str, election: str, ttl: str, folder: str) -> None:
    """Until told to leave."""
    elector = LeaderElector(url, election, ttl=float(ttl))
    writer, over, leading = Writer(folder), threading.Event(), threading.Event()
    # A test that was killed closes the pipe: this process is to end then, whatever it leads.
    thread = threading.Thread(target=_lead, args=(elector, writer, over, leading), daemon=True)
    thread.start()
    say("contends")
    while (order := hear()) != "leave":
        _, _, token = order.partition(" ")
        say("late", "accepted" if writer.write(FencingToken(election, int(token))) else "refused")
    over.set()
    if not leading.is_set():  # else it resigns by itself
        elector.close()
    thread.join()
    elector.close()
    sys.exit(0)


def _lead(elector: LeaderElector, writer: Writer, over: threading.Event, leading: threading.Event) -> None:
    def lost(term: Term) -> None:
        assert term.reason is not None
        say("lost", int(term.token), term.reason.value)

    while not over.is_set():
        try:
            with elector.lead() as term:
                leading.set()
                term.on_lost(lost)
                writer.write(term.token)
                say("leads", int(term.token))  # the resource knows it too by now
                while term.valid and not over.is_set():
                    writer.write(term.token)
                    term.wait_ended(BETWEEN)
            say("resigned", int(term.token))
        except LeadershipLost:
            pass
        except ElectorClosed:
            return
        except BackendError as error:
            say("fails", type(error).__name__)
            over.wait(AGAIN)
        finally:
            leading.clear()
