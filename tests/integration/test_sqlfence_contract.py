"""`SQLFence` on every database that it serves: the check and the caller's write are one transaction."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from coordkit import ConfigError, Misconfigured, OutcomeUnknown, Rejected, StaleToken, Unavailable
from coordkit.fencing import SQLFence, sql_door
from tests.support.sql import FENCE, LEDGER, Store, newest, token, write, written


@pytest.fixture
def store(sql_store: Store) -> Store:
    """SQLite, PostgreSQL or MariaDB."""
    return sql_store


@pytest.fixture
def engine(store: Store) -> Engine:
    """An engine with SQLAlchemy's and the driver's defaults; the tables exist."""
    return store.connect()


# -- one writer ------------------------------------------------------------------------------------------


def test_a_higher_and_an_equal_token_are_admitted_a_stale_one_writes_nothing(engine: Engine) -> None:
    for value in (5, 5, 7):
        with engine.begin() as connection:
            write(connection, value)
    with pytest.raises(StaleToken) as caught, engine.begin() as connection:
        write(connection, 6)
    assert (caught.value.offered, caught.value.newest) == (token(6), token(7))
    with pytest.raises(StaleToken), engine.begin() as connection:
        connection.execute(LEDGER.insert().values(token=6, writer="wrote before it asked"))
        FENCE.admit(connection, token(6))
    assert written(engine) == [5, 5, 7]
    assert newest(engine) == token(7)


def test_elections_are_kept_apart_letter_by_letter(engine: Engine) -> None:
    """Though the database's collation may take them for equal."""
    names = ["e", "E", "é", "è", "ss", "ß", "e/f", "e ", "e%", "_", "語" * 85]
    for number, name in enumerate(names, 1):
        with engine.begin() as connection:
            FENCE.admit(connection, token(number, name))
    assert [newest(engine, name) for name in names] == [token(number, name) for number, name in enumerate(names, 1)]
    assert newest(engine, "other") is None
    with engine.connect() as connection:
        assert {tuple(row) for row in connection.execute(select(FENCE.table))} == {
            (name, number) for number, name in enumerate(names, 1)
        }


def test_the_largest_tokens_are_compared_exactly(engine: Engine) -> None:
    with engine.begin() as connection:
        FENCE.admit(connection, token(2**63 - 1))
    with pytest.raises(StaleToken), engine.begin() as connection:
        FENCE.admit(connection, token(2**63 - 2))
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


def test_an_orm_session_admits(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        FENCE.admit(session, token(3))
        session.execute(LEDGER.insert().values(token=3))
        assert FENCE.newest(session, "e") == token(3)
    with pytest.raises(StaleToken), Session(engine) as session, session.begin():
        session.execute(LEDGER.insert().values(token=2))
        FENCE.admit(session.connection(), token(2))
    assert written(engine) == [3]


def test_a_fence_reset_to_empty_has_forgotten(engine: Engine) -> None:
    with engine.begin() as connection:
        write(connection, 9)
    with engine.begin() as connection:
        FENCE.table.drop(connection)
    FENCE.create(engine)
    assert newest(engine) is None
    with engine.begin() as connection:
        write(connection, 1)  # the danger that the docstring names
    assert written(engine) == [9, 1]


def test_a_token_of_another_election_is_no_reason_to_refuse(engine: Engine) -> None:
    """Elections do not know of each other: what is written for one is fenced by its own token alone."""
    with engine.begin() as connection:
        write(connection, 9, election="e")
    with engine.begin() as connection:
        write(connection, 1, election="e/f")
    with pytest.raises(StaleToken) as caught, engine.begin() as connection:
        FENCE.admit(connection, token(1, "e/f"))
        FENCE.admit(connection, token(8, "e"))
    assert caught.value.offered == token(8, "e")
    assert (newest(engine, "e"), newest(engine, "e/f")) == (token(9, "e"), token(1, "e/f"))


def test_what_is_written_around_the_fence_is_not_protected(engine: Engine) -> None:
    """The danger that the docstring names: read, pause, admit elsewhere, write."""
    with engine.begin() as connection:
        write(connection, 5)
        total = connection.execute(select(func.sum(LEDGER.c.token))).scalar()
    with engine.begin() as successor:
        write(successor, 6)
    with engine.begin() as connection:  # no admission here
        connection.execute(LEDGER.insert().values(token=total, writer="around"))
    assert written(engine) == [5, 6, 5]
    with pytest.raises(StaleToken), engine.begin() as connection:  # and so it is done right
        FENCE.admit(connection, token(5))
        connection.execute(LEDGER.insert().values(token=total, writer="around"))
    assert written(engine) == [5, 6, 5]


# -- what cannot be fenced -------------------------------------------------------------------------------


def test_a_connection_in_autocommit_is_refused(engine: Engine, store: Store) -> None:
    whole = store.connect(isolation_level="AUTOCOMMIT").connect()
    part = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    for connection in (whole, part):
        with connection, pytest.raises(ConfigError, match="autocommit"):
            write(connection, 1)
    assert written(engine) == []


@pytest.mark.parametrize("sql_store", ["postgresql", "mariadb"], indirect=True)
def test_autocommit_is_noticed_though_the_driver_does_not_tell(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_door, "_told_by_driver", lambda driver: None)
    with engine.begin() as connection:
        write(connection, 1)
    with (
        store.connect(isolation_level="AUTOCOMMIT").connect() as connection,
        pytest.raises(ConfigError, match="autocommit"),
    ):
        write(connection, 2)
    assert written(engine) == [1]


def test_a_missing_table_is_named_with_its_remedy(engine: Engine, store: Store) -> None:
    other = SQLFence(table="elsewhere")
    for ask in (other.admit, lambda connection, _: other.newest(connection, "e")):
        missing = pytest.raises(Misconfigured, match=r"'elsewhere' is missing: call fence\.create\(engine\)")
        with missing as caught, engine.begin() as connection:
            connection.execute(LEDGER.insert().values(token=1))
            ask(connection, token(1))
        assert caught.value.backend == engine.dialect.name
        assert caught.value.__cause__ is not None
    assert written(engine) == []
    with pytest.raises(Misconfigured, match="missing"):
        other.bind(engine).admit(token(1))


def test_a_foreign_table_of_that_name_is_not_taken_for_a_fence(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE theirs (id INTEGER PRIMARY KEY)"))
    with pytest.raises(Misconfigured, match="'theirs' is not a fence's"), engine.begin() as connection:
        SQLFence(table="theirs").admit(connection, token(1))


@pytest.mark.parametrize("sql_store", ["sqlite", "postgresql"], indirect=True)
def test_a_table_without_its_key_is_not_taken_for_a_fence(engine: Engine) -> None:
    """It could have two rows of one election. MySQL and MariaDB say nothing of it."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE theirs (election VARCHAR(50), token BIGINT)"))
    with pytest.raises(Misconfigured, match="'theirs' is not a fence's"), engine.begin() as connection:
        SQLFence(table="theirs").admit(connection, token(1))


def test_a_table_that_does_not_take_the_token_is_not_believed(engine: Engine, store: Store) -> None:
    """Nothing was stored, so nobody would be refused later."""
    keeps_out = {
        "sqlite": ["CREATE TRIGGER t BEFORE INSERT ON coordkit_fence BEGIN SELECT RAISE(IGNORE); END"],
        "postgresql": [
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TRIGGER t BEFORE INSERT ON coordkit_fence FOR EACH ROW EXECUTE FUNCTION f()",
        ],
        "mariadb": ["CREATE TRIGGER t BEFORE INSERT ON coordkit_fence FOR EACH ROW SET NEW.token = 1"],
    }[store.backend]
    with engine.begin() as connection:
        for statement in keeps_out:
            connection.exec_driver_sql(statement)
    with pytest.raises(Misconfigured, match="look for a trigger"), engine.begin() as connection:
        write(connection, 5)
    assert written(engine) == []


@pytest.mark.parametrize("value", [0, -1])
def test_no_row_holds_what_is_no_token(engine: Engine, value: int) -> None:
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(FENCE.table.insert().values(election="e", token=value))


@pytest.mark.local_cluster  # MariaDB in a container knows no users
@pytest.mark.parametrize("sql_store", ["postgresql", "mariadb"], indirect=True)
def test_a_user_without_rights_is_rejected(engine: Engine, store: Store) -> None:
    assert store.server is not None
    guest = create_engine(store.server.url(user="guest"))
    with pytest.raises(Rejected), guest.begin() as connection:
        FENCE.admit(connection, token(1))
    with pytest.raises(Rejected):
        FENCE.bind(guest).admit(token(1))
    with pytest.raises(Rejected):
        SQLFence(table="mine").create(guest)
    guest.dispose()


@pytest.mark.parametrize("sql_store", ["postgresql", "mariadb"], indirect=True)
def test_a_transaction_that_may_only_read_is_rejected(engine: Engine, store: Store) -> None:
    """As on a standby."""
    with engine.connect() as connection:
        scope = {"postgresql": "SESSION CHARACTERISTICS AS", "mariadb": "SESSION"}[store.backend]
        connection.exec_driver_sql(f"SET {scope} TRANSACTION READ ONLY")
        connection.commit()
        with pytest.raises(Rejected):
            FENCE.admit(connection, token(1))
        connection.invalidate()


@pytest.mark.parametrize("sql_store", ["postgresql"], indirect=True)
def test_a_transaction_that_has_failed_is_to_be_started_again(engine: Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT * FROM nowhere"))
        with pytest.raises(Unavailable, match="roll back and start again"):
            FENCE.admit(connection, token(1))


@pytest.mark.parametrize("sql_store", ["postgresql", "mariadb"], indirect=True)
def test_a_connection_that_breaks_leaves_the_outcome_open(engine: Engine, store: Store) -> None:
    assert store.server is not None
    with engine.connect() as connection:
        write(connection, 5)
        store.server.member.kill()
        with pytest.raises(OutcomeUnknown):
            FENCE.admit(connection, token(5))
    store.server.heal()
    assert newest(store.connect()) is None
    assert written(store.connect()) == []


@pytest.mark.parametrize("sql_store", ["mariadb"], indirect=True)
def test_mariadb_by_either_name_of_its_dialect(engine: Engine, store: Store) -> None:
    other = store.connect("mariadb")
    FENCE.create(other)
    with other.begin() as connection:
        write(connection, 5)
    with pytest.raises(StaleToken), engine.begin() as connection:
        write(connection, 4)
    with engine.connect() as connection:
        made = connection.exec_driver_sql("SHOW CREATE TABLE coordkit_fence").one()[1]
    assert "varbinary(255)" in made
    assert "ENGINE=InnoDB" in made


@pytest.mark.parametrize("sql_store", ["mariadb"], indirect=True)
def test_a_server_that_returns_nothing_from_an_insert_is_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MySQL, whose statements these are; the second reads with the row's lock, past the snapshot."""
    engine.connect().close()  # it asks what the server can do
    monkeypatch.setattr(engine.dialect, "insert_returning", False)
    for value in (5, 5, 7):
        with engine.begin() as connection:
            write(connection, value)
    with engine.connect() as old:
        assert FENCE.newest(old, "e") == token(7)  # the snapshot begins
        with engine.begin() as connection:
            write(connection, 9)
        assert FENCE.newest(old, "e") == token(7)
        with pytest.raises(StaleToken) as caught:
            FENCE.admit(old, token(8))
        old.rollback()
    assert caught.value.newest == token(9)
    assert written(engine) == [5, 5, 7, 9]
