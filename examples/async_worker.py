"""An asyncio worker that runs while it leads; its body is cancelled when the term is lost.

    pip install 'coordkit[sql]'
    python examples/async_worker.py --label one        in one terminal
    python examples/async_worker.py --label two        in another; then kill the one that leads

The danger that remains: a thread cannot be cancelled, and a process can be paused. So what the worker writes, it
writes in one transaction with the admission of its token.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
from pathlib import Path

from sqlalchemy import Engine, create_engine, text

from coordkit import AsyncLeaderElector, AsyncTerm, FencingToken, LeadershipLost, StaleToken
from coordkit.fencing import SQLFence

fence = SQLFence()


def write(engine: Engine, token: FencingToken, label: str) -> None:
    """One fenced write: the check and the row are one transaction."""
    with engine.begin() as connection:
        fence.admit(connection, token)
        connection.execute(
            text("INSERT INTO reports (token, author) VALUES (:token, :author)"),
            {"token": int(token), "author": label},
        )


async def work(term: AsyncTerm, engine: Engine, label: str, every: float) -> None:
    """What only the leader does. Cancelled at the next `await` when the term is lost."""
    while True:
        await asyncio.to_thread(write, engine, term.token, label)
        print(f"{label}: wrote under {term.token}", flush=True)
        await asyncio.sleep(every)


async def lead(elector: AsyncLeaderElector, engine: Engine, label: str, every: float) -> None:
    """Contend, lead, contend again, until cancelled."""
    while True:
        print(f"{label}: waiting", flush=True)
        try:
            async with elector.lead() as term:
                print(f"{label}: leading with {term.token}", flush=True)
                await work(term, engine, label, every)
        except LeadershipLost as lost:
            print(f"{label}: {lost}", flush=True)
        except StaleToken as stale:
            print(f"{label}: refused: {stale}", flush=True)


async def main() -> None:
    folder = Path(tempfile.gettempdir()) / "coordkit-example"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=folder, help="where the database files are")
    parser.add_argument("--url", help="the backend of the election; default: an SQLite file in the folder")
    parser.add_argument("--election", default="examples/reports")
    parser.add_argument("--ttl", type=float, default=5.0)
    parser.add_argument("--label", default="worker")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two writes")
    given = parser.parse_args()

    given.folder.mkdir(exist_ok=True)
    engine = create_engine(f"sqlite:///{given.folder}/reports.db")
    fence.create(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS reports (token INTEGER, author TEXT)"))

    elector = AsyncLeaderElector(
        given.url or f"sqlite://{given.folder.absolute()}/election.db",
        given.election,
        ttl=given.ttl,
        label=given.label,
        fences=[fence.bind(engine)],  # a new leader's first act: from then on older tokens are stale
    )

    leading = asyncio.create_task(lead(elector, engine, given.label, given.every))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leading.cancel)  # unwinds the block, which hands over at once
    try:
        await leading
    except asyncio.CancelledError:
        print(f"{given.label}: ended", flush=True)
    finally:
        await elector.close()


if __name__ == "__main__":
    asyncio.run(main())
