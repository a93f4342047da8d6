"""The resource's side: a service that refuses whoever leads no more, and the writers that lead in turn.

    pip install 'coordkit[sql]' uvicorn
    python examples/fenced_writer.py serve                   the resource, in one terminal
    python examples/fenced_writer.py write --label one       a writer in another
    python examples/fenced_writer.py write --label two       and one that takes over when the first is killed or paused

The service keeps a report. Its middleware refuses a request with a stale token before the service sees it: 412, with
the newest token in the answer. The fence is in the database, and the write admits the token once more in its own
transaction; so the service may be started again, or run several times over one database, and still refuses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text

from coordkit import FencingToken, LeaderElector, LeadershipLost, StaleToken, Term
from coordkit.fencing import FenceMiddleware, SQLFence, recorded

ELECTION = "examples/writers"
fence = SQLFence()

Scope = MutableMapping[str, Any]
Call = Callable[..., Awaitable[Any]]


# --- the resource ---------------------------------------------------------------------------------------------


class Report:
    """An ASGI service: PUT /report replaces the report, GET /report reads it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        if scope["method"] == "PUT":
            body = (await receive())["body"].decode(errors="replace")  # the middleware hands it on whole
            try:
                await asyncio.to_thread(self.write, scope["coordkit.token"], body)
            except StaleToken:  # a newer leader came between the middleware and this transaction
                await answered(send, 412, {"detail": "stale"})
                return
        await answered(send, 200, await asyncio.to_thread(self.read))

    def write(self, token: FencingToken, body: str) -> None:
        with recorded(token, "report"), self.engine.begin() as connection:  # for `coordkit audit`, with a journal
            fence.admit(connection, token)
            connection.execute(text("DELETE FROM report"))
            connection.execute(text("INSERT INTO report VALUES (:token, :body)"), {"token": int(token), "body": body})

    def read(self) -> dict[str, object]:
        with self.engine.connect() as connection:
            row = connection.execute(text("SELECT token, body FROM report")).first()
        return {} if row is None else {"token": row[0], "body": row[1]}


async def answered(send: Call, status: int, told: object) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def serve(folder: Path, port: int) -> None:
    import uvicorn

    engine = create_engine(f"sqlite:///{folder / 'report.db'}")
    fence.create(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS report (token INTEGER NOT NULL, body TEXT NOT NULL)"))
    app = FenceMiddleware(Report(engine), fence.bind(engine), election=ELECTION)
    with socket.create_server(("127.0.0.1", port)) as listening:
        print(f"serving http://127.0.0.1:{port}/report", flush=True)
        uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning")).run(sockets=[listening])


# --- the writers ----------------------------------------------------------------------------------------------


def put(service: str, token: FencingToken, body: str) -> None:
    """Replace the report; `StaleToken` if the service says that a newer leader was there."""
    request = urllib.request.Request(f"{service}/report", body.encode(), token.headers(), method="PUT")
    try:
        urllib.request.urlopen(request, timeout=2.0).close()
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 412:
                newest = json.load(error).get("newest")
                raise StaleToken(token, FencingToken.parse(newest) if newest else token) from error
            raise


def work(term: Term, service: str, label: str, every: float) -> None:
    number = 0
    while True:
        number += 1
        term.ensure(min_remaining=0.5)  # a pause after this line is what the resource guards against
        put(service, term.token, f"{label}: report {number}")
        print(f"{label}: wrote report {number} under {term.token}", flush=True)
        term.wait_ended(every)


def write(folder: Path, service: str, label: str, ttl: float, every: float) -> None:
    elector = LeaderElector(f"sqlite://{folder / 'election.db'}", ELECTION, ttl=ttl, label=label)

    def leave(*_: object) -> None:
        elector.close()
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    print(f"{label}: contending", flush=True)
    while True:
        try:
            with elector as term:
                print(f"{label}: leads with {term.token}", flush=True)
                work(term, service, label, every)
        except (LeadershipLost, StaleToken) as over:
            print(f"{label}: over: {type(over).__name__}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("role", choices=("serve", "write"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "coordkit-example")
    parser.add_argument("--port", type=int, default=8412)
    parser.add_argument("--label", default="writer")
    parser.add_argument("--ttl", type=float, default=5.0)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two writes")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.role == "serve":
        serve(given.folder, given.port)
    else:
        write(given.folder, f"http://127.0.0.1:{given.port}", given.label, given.ttl, given.every)


if __name__ == "__main__":
    main()
