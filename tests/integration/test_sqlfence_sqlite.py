"""`SQLFence` on SQLite: the check and the caller's write are one transaction, whoever else writes meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, create_engine, event, select, text
from sqlalchemy.orm import Session

from coordkit import (
    ConfigError,
    FencingToken,
    LeaderElector,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.fencing import SQLFence

pytestmark = pytest.mark.backend("sqlite")

ledger = Table(
    "ledger",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("token", Integer),
    Column("writer", String),
)
fence = SQLFence()

Connect = Callable[..., Engine]


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Makes engines on one file in write-ahead mode, disposed of at the end."""
    with ExitStack() as engines:

        def make(*, timeout: float = 20, **options: object) -> Engine:
            engine = create_engine(f"sqlite:///{tmp_path}/ledger.db", connect_args={"timeout": timeout}, **options)
            engines.callback(engine.dispose)
            return engine

        yield make


@pytest.fixture
def engine(connect: Connect) -> Engine:
    """An engine with SQLAlchemy's and the driver's defaults; the tables exist."""
    made = connect()
    with made.begin() as connection:
        connection.execute(text("PRAGMA journal_mode=WAL"))
        ledger.create(connection)
    fence.create(made)
    return made


def write(connection: Connection, value: int, writer: str = "w") -> None:
    fence.admit(connection, token(value))
    connection.execute(ledger.insert().values(token=value, writer=writer))


def written(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(select(ledger.c.token).order_by(ledger.c.id)).scalars())


def newest(engine: Engine, election: str = "e") -> FencingToken | None:
    with engine.connect() as connection:
        return fence.newest(connection, election)


# -- one writer ------------------------------------------------------------------------------------------


def test_a_higher_and_an_equal_token_are_admitted_a_stale_one_writes_nothing(engine: Engine) -> None:
    for value in (5, 5, 7):
        with engine.begin() as connection:
            write(connection, value)
    with pytest.raises(StaleToken) as caught, engine.begin() as connection:
        write(connection, 6)
    assert (caught.value.offered, caught.value.newest) == (token(6), token(7))
    with pytest.raises(StaleToken), engine.begin() as connection:
        connection.execute(ledger.insert().values(token=6, writer="wrote before it asked"))
        fence.admit(connection, token(6))
    assert written(engine) == [5, 5, 7]
    assert newest(engine) == token(7)


def test_elections_are_kept_apart_letter_by_letter(engine: Engine) -> None:
    names = ["e", "E", "é", "e/f", "e ", "e%", "_"]
    for number, name in enumerate(names, 1):
        with engine.begin() as connection:
            fence.admit(connection, token(number, name))
    assert [newest(engine, name) for name in names] == [token(number, name) for number, name in enumerate(names, 1)]
    assert newest(engine, "other") is None


def test_the_largest_tokens_are_compared_exactly(engine: Engine) -> None:
    with engine.begin() as connection:
        fence.admit(connection, token(2**63 - 1))
    with pytest.raises(StaleToken), engine.begin() as connection:
        fence.admit(connection, token(2**63 - 2))
    assert newest(engine) == token(2**63 - 1)


def test_a_rollback_forgets_the_admission_with_the_write(engine: Engine) -> None:
    with engine.begin() as connection:
        write(connection, 1)
    with engine.connect() as connection:
        write(connection, 9)
        connection.rollback()
    assert (newest(engine), written(engine)) == (token(1), [1])
    with engine.begin() as connection:
        write(connection, 2)
    assert written(engine) == [1, 2]


def test_a_rollback_to_a_savepoint_forgets_an_admission_made_after_it(engine: Engine) -> None:
    with engine.begin() as connection:
        write(connection, 1)
        savepoint = connection.begin_nested()
        write(connection, 9)
        savepoint.rollback()
    assert (newest(engine), written(engine)) == (token(1), [1])


def test_an_orm_session_admits_on_its_connection(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        fence.admit(session.connection(), token(3))
        session.execute(ledger.insert().values(token=3))
    with pytest.raises(StaleToken), Session(engine) as session, session.begin():
        session.execute(ledger.insert().values(token=2))
        fence.admit(session.connection(), token(2))
    assert written(engine) == [3]


def test_a_fence_reset_to_empty_has_forgotten(engine: Engine) -> None:
    with engine.begin() as connection:
        write(connection, 9)
    with engine.begin() as connection:
        fence.table.drop(connection)
    fence.create(engine)
    assert newest(engine) is None
    with engine.begin() as connection:
        write(connection, 1)  # the danger that the docstring names
    assert written(engine) == [9, 1]


# -- two writers -----------------------------------------------------------------------------------------


def test_nobody_is_admitted_while_another_has_not_committed(engine: Engine, connect: Connect) -> None:
    hasty = connect(timeout=0.1)
    with engine.begin() as connection:
        write(connection, 5)
        with pytest.raises(Unavailable, match="locked"), hasty.begin() as other:
            write(other, 6)
        with pytest.raises(Unavailable, match="locked"), hasty.begin() as other:
            write(other, 4)  # not judged by what is not committed yet
        assert newest(hasty) is None
    with pytest.raises(StaleToken), hasty.begin() as other:
        write(other, 4)
    assert written(engine) == [5]


def test_a_refused_writer_holds_no_lock_afterwards(engine: Engine, connect: Connect) -> None:
    with engine.begin() as connection:
        write(connection, 5)
    with pytest.raises(StaleToken), engine.begin() as connection:
        write(connection, 4)
    with connect(timeout=0.1).begin() as connection:
        write(connection, 6)
    assert written(engine) == [5, 6]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_two_first_writers_at_once(engine: Engine, connect: Connect, mode: str) -> None:
    """Whoever comes second is judged by the first, though no row was there when both began."""
    with engine.connect() as connection:
        connection.execute(text(f"PRAGMA journal_mode={mode}"))
    engines = [connect(), connect()]
    refused = 0
    for round_number in range(40):
        election = f"round/{round_number}"
        together = threading.Barrier(2)
        outcome: dict[int, str] = {}

        def first_write(
            engine: Engine, value: int, election: str = election, start: threading.Barrier = together, out=outcome
        ) -> None:
            start.wait()
            try:
                with engine.begin() as connection:
                    fence.admit(connection, token(value, election))
                    connection.execute(ledger.insert().values(token=value, writer=election))
                out[value] = "written"
            except StaleToken:
                out[value] = "stale"

        threads = [
            threading.Thread(target=first_write, args=(engines[number], value))
            for number, value in enumerate((1, 2) if round_number % 2 else (2, 1))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with engine.connect() as connection:
            rows = connection.execute(
                select(ledger.c.token).where(ledger.c.writer == election).order_by(ledger.c.id)
            ).scalars()
            assert list(rows) == ([1, 2] if outcome[1] == "written" else [2])
        assert outcome[2] == "written"
        refused += outcome[1] == "stale"
        assert newest(engine, election) == token(2, election)
    assert refused > 0, "the two never met in the order that matters"


def test_two_who_create_the_table_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(4)
    failures: list[BaseException] = []

    def create() -> None:
        mine = create_engine(f"sqlite:///{tmp_path}/new.db", connect_args={"timeout": 20})
        together.wait()
        try:
            fence.create(mine)
            fence.create(mine)
            with mine.begin() as connection:
                fence.create(connection)
                fence.admit(connection, token(1))
        except BaseException as error:
            failures.append(error)
        finally:
            mine.dispose()

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_transaction_that_read_before_another_wrote_is_refused_not_believed(engine: Engine, connect: Connect) -> None:
    """Read-modify-write with an explicit BEGIN: the old snapshot must not be written from."""
    careful = connect()

    @event.listens_for(careful, "connect")
    def no_implicit_begin(connection, record) -> None:
        connection.isolation_level = None

    @event.listens_for(careful, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    with pytest.raises(Unavailable), careful.begin() as connection:
        assert connection.execute(select(ledger.c.token)).all() == []
        with engine.begin() as other:
            write(other, 5)
        write(connection, 6)
    with careful.begin() as connection:  # and this way of beginning is not taken for autocommit
        write(connection, 7)
    assert written(engine) == [5, 7]


WRITER = """
import json, os, random, sys
from sqlalchemy import create_engine, event, text
from coordkit import FencingToken, StaleToken
from coordkit.fencing import SQLFence

path, number, writes, writers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})
event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA synchronous=OFF"))
fence, chance = SQLFence(), random.Random(number)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(writes):
    value = max(1, turn * writers // 2 + chance.randint(-8, 8))
    crash = number == 0 and turn == writes // 2
    if crash:
        value = 10**5  # were it not forgotten with the transaction, everybody else would be stale from here on
    try:
        with engine.begin() as connection:
            if chance.random() < 0.5:
                connection.execute(text("SELECT max(token) FROM ledger")).scalar()
            fence.admit(connection, FencingToken("e", value))
            connection.execute(text("INSERT INTO ledger (token, writer) VALUES (:t, :w)"),
                               {"t": value, "w": f"{number}/{turn}"})
            if crash:
                os.write(1, json.dumps(["crashed", f"{number}/{turn}", value, 0]).encode() + b"\\n")
                os._exit(9)
        print(json.dumps(["written", f"{number}/{turn}", value, 0]), flush=True)
    except StaleToken as error:
        print(json.dumps(["stale", f"{number}/{turn}", value, int(error.newest)]), flush=True)
"""


def test_writers_in_six_processes_with_interleaved_tokens(engine: Engine, tmp_path: Path) -> None:
    writers, writes = 6, 120
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, f"{tmp_path}/ledger.db", *map(str, (number, writes, writers))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(writers)
        ]
        for process in processes:
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=90)[0] for process in processes]
    assert [process.returncode for process in processes] == [9, *[0] * (writers - 1)]

    reported = [json.loads(line) for output in outputs for line in output.splitlines()]
    accepted = {name for what, name, _, _ in reported if what == "written"}
    stale = [(value, seen) for what, _, value, seen in reported if what == "stale"]
    with engine.connect() as connection:
        rows = connection.execute(select(ledger.c.writer, ledger.c.token).order_by(ledger.c.id)).all()
    assert [value for _, value in rows] == sorted(value for _, value in rows), "accepted tokens fell"
    assert {name for name, _ in rows} == accepted, "an accepted write is lost, or a refused one is there"
    assert [len(output.splitlines()) for output in outputs[1:]] == [writes] * (writers - 1)
    assert json.loads(outputs[0].splitlines()[-1])[0] == "crashed"
    assert len(stale) > 20
    assert len(accepted) > 20
    assert all(value < seen for value, seen in stale)
    assert newest(engine) == token(max(value for _, value in rows))
    with engine.begin() as connection:  # nobody left a lock behind, the crashed one neither
        write(connection, 10**6)


# -- what cannot be fenced -------------------------------------------------------------------------------


def test_a_connection_in_autocommit_is_refused(engine: Engine, connect: Connect) -> None:
    with connect(isolation_level="AUTOCOMMIT").connect() as connection, pytest.raises(ConfigError, match="autocommit"):
        write(connection, 1)
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(ConfigError, match="autocommit"),
    ):
        write(connection, 1)
    assert written(engine) == []


def test_a_missing_table_is_named_with_its_remedy(engine: Engine) -> None:
    other = SQLFence(table="elsewhere")
    for ask in (other.admit, lambda connection, _: other.newest(connection, "e")):
        missing = pytest.raises(Misconfigured, match=r"'elsewhere' is missing: call fence\.create\(engine\)")
        with missing as caught, engine.begin() as connection:
            connection.execute(ledger.insert().values(token=1))
            ask(connection, token(1))
        assert caught.value.backend == "sqlite"
        assert caught.value.__cause__ is not None
    assert written(engine) == []
    with pytest.raises(Misconfigured, match="missing"):
        other.bind(engine).admit(token(1))


def test_a_foreign_table_of_that_name_is_not_taken_for_a_fence(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE theirs (id INTEGER PRIMARY KEY)"))
    with pytest.raises(Misconfigured, match="'theirs' is not a fence's"), engine.begin() as connection:
        SQLFence(table="theirs").admit(connection, token(1))


@pytest.mark.parametrize("value", ["'rubbish'", "1.5", "x'00'"])
def test_a_row_that_holds_no_token_is_no_floor(engine: Engine, value: str) -> None:
    """Written around the fence. Text compares above every number in SQLite: no token is admitted, nor made up."""
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO coordkit_fence VALUES ('e', {value})"))
    with pytest.raises(Misconfigured, match="holds no token for 'e'"), engine.begin() as connection:
        write(connection, 1)
    assert written(engine) == []


def test_files_that_cannot_be_written_or_are_no_database(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    urls = {
        f"sqlite:///file:{tmp_path}/ledger.db?mode=ro&uri=true": Rejected,
        f"sqlite:///{tmp_path}/text.db": Misconfigured,
        f"sqlite:///{tmp_path}/absent/ledger.db": Rejected,
    }
    for url, kind in urls.items():
        other = create_engine(url)
        with pytest.raises(kind) as caught:
            fence.bind(other).admit(token(1))
        assert caught.value.operation == "admit"
        other.dispose()
    with pytest.raises(Misconfigured):
        fence.create(create_engine(f"sqlite:///{tmp_path}/text.db"))


def test_an_error_without_a_code_leaves_the_outcome_open(engine: Engine) -> None:
    class Broken(Exception):
        pass

    @event.listens_for(engine, "before_cursor_execute")
    def fail(connection, cursor, statement, parameters, context, many) -> None:
        cursor.close()  # the driver then raises ProgrammingError, which has no code of SQLite

    with pytest.raises(OutcomeUnknown), engine.begin() as connection:
        fence.admit(connection, token(1))


# -- bound -----------------------------------------------------------------------------------------------


def test_a_bound_fence_admits_in_a_transaction_of_its_own(engine: Engine) -> None:
    bound = fence.bind(engine)
    bound.admit(token(5))
    bound.admit(token(5))
    assert newest(engine) == token(5)
    with pytest.raises(StaleToken):
        bound.admit(token(4))


def test_a_bound_fence_waits_for_a_lock_and_gives_up_in_time(engine: Engine, connect: Connect) -> None:
    bound = fence.bind(connect(timeout=0.01), timeout=20)
    tries = 0

    @event.listens_for(bound._engine, "handle_error")
    def count(context) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            holder.rollback()

    with engine.connect() as holder:
        write(holder, 9)
        bound.admit(token(5))
    assert tries == 3
    assert newest(engine) == token(5)

    with engine.begin() as holder, pytest.raises(Unavailable, match="locked"):
        write(holder, 9)
        fence.bind(connect(timeout=0.01), timeout=0.1).admit(token(6))


def test_a_pool_without_a_connection_is_unavailable(engine: Engine, connect: Connect) -> None:
    small = connect(pool_size=1, max_overflow=0, pool_timeout=0.01)
    with small.connect(), pytest.raises(Unavailable):
        fence.bind(small, timeout=0.05).admit(token(1))


def test_a_leader_shows_its_token_before_its_body_begins(engine: Engine, tmp_path: Path) -> None:
    elector = LeaderElector(f"sqlite://{tmp_path}/election.db", "e", ttl=20, fences=[fence.bind(engine)])
    with elector.lead() as term:
        assert newest(engine) == term.token
        with engine.begin() as connection:
            fence.admit(connection, term.token)
    ahead = int(term.token) + 10**9
    with engine.begin() as connection:
        fence.admit(connection, token(ahead))
    with pytest.raises(StaleToken) as caught, elector.lead():
        pytest.fail("the body ran under a token that the resource refuses")
    assert int(caught.value.newest) == ahead
    assert elector.leader() is None  # the seat was given back
    elector.close()
