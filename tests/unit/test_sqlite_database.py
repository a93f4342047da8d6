"""Where an SQLite file may stand, and what its errors mean: decided from tables, without any database.

The rule: the list of mounts is the test's own. What needs a database stands in tests/contract/test_sqlite_file.py.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from coordkit.backends.sqlite import database
from coordkit.backends.sqlite.database import (
    NETWORK_FILE_SYSTEMS,
    check_place,
    identity_of,
    mount_of,
    translated,
)
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
22 21 0:20 / /proc rw - proc proc rw
23 21 0:21 / /srv rw shared:2 master:3 - xfs /dev/sdb rw
24 23 0:22 / /srv/net rw - nfs4 server:/export rw
25 23 0:23 / /srv/with\\040space rw - cifs //server/share rw
26 23 0:24 / /srv/back\\134slash rw - fuse.sshfs host: rw
27 23 0:25 / /srv/b\u00fccher rw - ceph mon:/ rw
28 23 0:26 / /srv/twice rw - nfs server:/x rw
29 28 0:27 / /srv/twice rw - tmpfs tmpfs rw
30 24 0:28 / /srv/net/local rw - ext4 /dev/sdc rw
31 21 0:29 / /srv/new\\012line rw - lustre x rw
""".encode()


@pytest.fixture
def mounts(tmp_path: Path) -> str:
    file = tmp_path / "mountinfo"
    file.write_bytes(MOUNTS)
    return str(file)


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/var/lib/x.db", "/", "ext4"),
        ("/srv/x.db", "/srv", "xfs"),
        ("/srvx/x.db", "/", "ext4"),
        ("/srv/net/x.db", "/srv/net", "nfs4"),
        ("/srv/network/x.db", "/srv", "xfs"),
        ("/srv/net", "/srv/net", "nfs4"),
        ("/srv/net/local/x.db", "/srv/net/local", "ext4"),
        ("/srv/with space/x.db", "/srv/with space", "cifs"),
        ("/srv/back\\slash/x.db", "/srv/back\\slash", "fuse.sshfs"),
        ("/srv/b\u00fccher/x.db", "/srv/b\u00fccher", "ceph"),
        ("/srv/twice/x.db", "/srv/twice", "tmpfs"),
        ("/srv/new\nline/x.db", "/srv/new\nline", "lustre"),
        ("/srv/net/../x.db", "/srv", "xfs"),
    ],
)
def test_the_longest_mount_above_a_path_holds_it(mounts: str, path: str, point: str, kind: str) -> None:
    """Octal escapes and names beyond ASCII included; of two mounts at one point the later covers the earlier."""
    assert mount_of(path, mounts) == (point, kind)


def test_a_link_is_followed_to_where_the_file_is(mounts: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/srv/net")
    assert mount_of(f"{tmp_path}/link/x.db", mounts) == ("/srv/net", "nfs4")


def test_without_a_list_of_mounts_nothing_is_known(tmp_path: Path) -> None:
    assert mount_of("/srv/x.db", str(tmp_path / "absent")) is None


@pytest.mark.parametrize("kind", sorted(NETWORK_FILE_SYSTEMS | {"fuse", "fuse.sshfs", "fuseblk"}))
def test_network_and_fuse_file_systems_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(database, "mount_of", lambda path: (str(tmp_path.parent), kind))
    with pytest.raises(Misconfigured, match=f"is on a {kind} file system") as caught:
        check_place(str(tmp_path / "x.db"))
    assert (caught.value.backend, caught.value.operation) == ("sqlite", "open")


@pytest.mark.parametrize("mount", [("/", "ext4"), ("/", "xfs"), ("/", "tmpfs"), ("/", "overlay"), None])
def test_local_file_systems_and_unknown_ones_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: tuple[str, str] | None
) -> None:
    monkeypatch.setattr(database, "mount_of", lambda path: mount)
    check_place(str(tmp_path / "x.db"))


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    os.link(file, tmp_path / "second")
    for path, said in (
        (tmp_path / "absent" / "x.db", "absent does not exist"),
        (file / "x.db", "file does not exist"),
        (tmp_path, "is a directory"),
        (file, "has a second name"),
        (tmp_path / ("x" * 248), "too long"),
        (tmp_path.joinpath(*["d" * 200] * 3), "too long"),
    ):
        with pytest.raises(Misconfigured, match=said):
            check_place(str(path))


def test_a_file_is_known_by_device_and_inode(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    assert identity_of(str(path)) is None
    path.write_text("")
    first = identity_of(str(path))
    assert first == (os.stat(path).st_dev, os.stat(path).st_ino)
    path.rename(tmp_path / "moved.db")
    assert identity_of(str(path)) is None
    path.write_text("")
    assert identity_of(str(path)) not in (None, first)
    assert identity_of(str(tmp_path / "moved.db")) == first


# -- errors ----------------------------------------------------------------------------------------------


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("as SQLite words it")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


CODES: dict[str, type[BackendError]] = {
    "SQLITE_BUSY": Unavailable,
    "SQLITE_BUSY_SNAPSHOT": Unavailable,
    "SQLITE_BUSY_RECOVERY": Unavailable,
    "SQLITE_LOCKED": Unavailable,
    "SQLITE_FULL": Unavailable,
    "SQLITE_NOMEM": Unavailable,
    "SQLITE_READONLY": Rejected,
    "SQLITE_READONLY_DIRECTORY": Rejected,
    "SQLITE_READONLY_DBMOVED": Unavailable,
    "SQLITE_PERM": Rejected,
    "SQLITE_AUTH": Rejected,
    "SQLITE_CORRUPT": Misconfigured,
    "SQLITE_NOTADB": Misconfigured,
    "SQLITE_ERROR": Misconfigured,
    "SQLITE_CONSTRAINT_CHECK": Misconfigured,
    "SQLITE_MISMATCH": Misconfigured,
    "SQLITE_CANTOPEN": Rejected,
    "SQLITE_IOERR": OutcomeUnknown,
    "SQLITE_IOERR_FSYNC": OutcomeUnknown,
    "SQLITE_INTERRUPT": OutcomeUnknown,
}


@pytest.mark.parametrize("name", CODES)
def test_an_error_means_what_its_code_says(name: str) -> None:
    cause = sqlite_error(name)
    made = translated(cause, "renew", "/absent/x.db")
    assert type(made) is CODES[name]
    assert made.__cause__ is cause
    assert (made.backend, made.operation) == ("sqlite", "renew")
    assert str(made) == f"renew on /absent/x.db: {name}: as SQLite words it"


def test_a_fault_without_a_code_may_have_happened() -> None:
    assert type(translated(sqlite3.ProgrammingError("of ours"), "attempt", "x")) is OutcomeUnknown


def test_a_file_that_may_be_opened_but_cannot_is_short_of_something(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("")
    assert type(translated(sqlite_error("SQLITE_CANTOPEN"), "open", str(path))) is Unavailable


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError(errno.EACCES, "denied"), Rejected),
        (OSError(errno.EIO, "disk"), Unavailable),
        (OSError(errno.EMFILE, "descriptors"), Unavailable),
        (OSError(errno.ENOTDIR, "a file in the way"), Misconfigured),
        (OSError(errno.ELOOP, "links in a circle"), Misconfigured),
        (OSError(errno.ENAMETOOLONG, "too long"), Misconfigured),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value.args[0]),
)
def test_an_error_of_the_file_system_wrote_nothing(error: OSError, kind: type[BackendError]) -> None:
    made = translated(error, "open", "x")
    assert type(made) is kind
    assert made.__cause__ is error


@pytest.mark.parametrize("kind", [Misconfigured, Unavailable, Rejected, OutcomeUnknown])
def test_an_error_of_ours_keeps_its_kind_and_words_and_gets_an_operation(kind: type[BackendError]) -> None:
    cause = kind("as it was said", backend="sqlite")
    made = translated(cause, "attempt", "x")
    assert made is not cause  # each waiter gets one of its own
    assert (type(made), str(made), made.operation, made.__cause__) == (kind, "as it was said", "attempt", cause)
