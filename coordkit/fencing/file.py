"""A fence for one file of a local file system.

The rule: the check and the write are under one lock, and the newer token is on the disk before anything is written
under it. So whenever the machine or the process dies, the file is the old one or the new one, never a mixture, and the
token beside it is not lower than the one that its content was written under.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final
from urllib.parse import unquote, urlsplit

from coordkit import retry
from coordkit.backends.sqlite.database import NETWORK_FILE_SYSTEMS, mount_of
from coordkit.errors import BackendError, ConfigError, Misconfigured, OutcomeUnknown, Rejected, StaleToken, Unavailable
from coordkit.model import MAX_ELECTION_BYTES, FencingToken, check_election, check_seconds, check_token

LOCK_SECONDS: Final = 5.0
LONGEST_NAME: Final = 255  # bytes, of Linux's file systems
LONGEST_TOKEN: Final = MAX_ELECTION_BYTES + 24
TOKEN, LOCK, FRESH = ".fence", ".fence-lock", ".fence-new"  # what stands beside the file, after its name


class FileFence:
    """Admits a token not lower than the newest that was seen for this file, together with its whole content.

        fence = FileFence("/srv/reports/state.json")
        fence.write(term.token, json.dumps(state))        # StaleToken: nothing was written

    The content is replaced by an atomic rename, so readers need no lock and see the old or the new one, and it is on
    the disk when `write` returns. Beside the file, `….fence` keeps the newest token and `….fence-lock` is the lock;
    both must stay. A file is of the election whose token came first; those of others are a `ConfigError`. Thread-safe,
    holds nothing open. A plain `Fence`, too: `LeaderElector(fences=[fence])`.

    The danger: it protects against those who write by it, on this machine. A writer that is stopped in the middle of a
    write keeps the lock, and the others get `Unavailable` after `timeout` seconds until it goes on or is killed. A
    restored backup, or who deletes `….fence`, forgets the newest token. The rename makes a new file: its mode is kept,
    its owner is the writer, hard links are refused.
    """

    def __init__(self, path: str | os.PathLike[str], election: str | None = None, *, timeout: float = LOCK_SECONDS):
        try:
            named: object = os.fspath(path)
        except TypeError:
            raise ConfigError(f"a file is named by a path, not {type(path).__name__}") from None
        if not isinstance(named, str) or not named or "\0" in named or named.endswith("/"):
            raise ConfigError("a file is named by a path: a str, not empty, without a zero byte or a '/' at its end")
        if len(os.fsencode(os.path.basename(named))) > LONGEST_NAME - len(LOCK):
            raise ConfigError(f"a file's name has at most {LONGEST_NAME - len(LOCK)} bytes: others stand beside it")
        self.path = named
        self.election = None if election is None else check_election(election)
        self._timeout = check_seconds(timeout, "timeout")

    def admit(self, token: FencingToken) -> None:
        """Remember `token`, or raise `StaleToken`. A write that follows in another call is not atomic with it."""
        self._check(token)
        with self._locked("admit") as held:
            held.admit(token)

    def write(self, token: FencingToken, data: bytes | str) -> None:
        """Replace the whole content, if the token is admitted; text is written in UTF-8."""
        self._check(token)
        content = _content(data)
        with self._locked("write") as held:
            held.admit(token)
            held.replace(held.path, content)

    def update(self, token: FencingToken, change: Callable[[bytes], bytes | str]) -> None:
        """Read, change and write, if the token is admitted, while nobody else writes. No file: empty."""
        self._check(token)
        with self._locked("update") as held:
            held.admit(token)
            held.replace(held.path, _content(change(held.content())))

    def newest(self, election: str) -> FencingToken | None:
        """The highest token seen of an election, or None; `ConfigError` if the file is another election's."""
        check_election(election)
        with _translated("newest", self.path):  # without the lock: the token is renamed into its place as a whole
            path = os.path.realpath(self.path)
            _check_place(path, "newest")
        found = newest_beside(path, "newest")
        if found is not None and found.election != election:
            raise _another(self.path, found.election, election)
        return found

    def overwrite(self, token: FencingToken) -> None:
        """Remember `token` whatever was seen, and of which election. For an operator: a lower one lets the stale in."""
        self._check(token)
        with self._locked("overwrite") as held:
            held.remember(token)

    def _check(self, token: FencingToken) -> None:
        check_token(token)
        if self.election not in (None, token.election):
            raise ConfigError(f"this fence is of the election {self.election!r}, not of {token.election!r}")

    @contextmanager
    def _locked(self, operation: str) -> Iterator[_Held]:
        with _translated(operation, self.path):
            held = retry.within(self._timeout)(_lock, self.path, operation)
        try:
            yield held
        finally:
            held.release()

    def __repr__(self) -> str:
        return f"<FileFence {self.path!r}>"


def fence_at(url: str, place: str | None, timeout: float, stack: ExitStack) -> FileFence:
    """The fence that an operator means by a URL: see `stored`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError("the fence of a file is at file:///path/of/the/file") from None
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise ConfigError("the fence of a file is at file:///path/of/the/file")
    return FileFence(unquote(parts.path), timeout=timeout)


class _Held:
    """The lock of a file, held; and what may be done while it is."""

    def __init__(self, path: str, lock: int, operation: str) -> None:
        self.path = path
        self._lock = lock
        self._operation = operation
        self._owner = os.getpid()

    def admit(self, token: FencingToken) -> None:
        newest = newest_beside(self.path, self._operation)
        if newest is not None and newest.election != token.election:
            raise _another(self.path, newest.election, token.election)
        if newest is not None and token < newest:
            raise StaleToken(token, newest)
        if token != newest:
            self.remember(token)

    def remember(self, token: FencingToken) -> None:
        self.replace(self.path + TOKEN, f"{token}\n".encode())

    def content(self) -> bytes:
        return _read(self.path, self._operation) or b""

    def replace(self, path: str, content: bytes) -> None:
        """A file with this content in the place of another, on the disk; or the old one."""
        with _translated(self._operation, self.path):
            self._replace(path, content)

    def _replace(self, path: str, content: bytes) -> None:
        fresh = self.path + FRESH
        with suppress(FileNotFoundError):
            os.unlink(fresh)  # of somebody who died
        made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with suppress(FileNotFoundError):
                os.fchmod(made, stat.S_IMODE(os.stat(path).st_mode))
            view = memoryview(content)
            while view:
                view = view[os.write(made, view) :]
            os.fsync(made)
        finally:
            os.close(made)
        if not _is_at(self._lock, self.path + LOCK):  # somebody has taken it away, and may hold another one
            told = f"{self.path}{LOCK} was removed while it was held: nothing was written"
            raise Misconfigured(told, backend="file", operation=self._operation)
        try:
            os.replace(fresh, path)
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            told = f"{self._operation} on {self.path}: {error}"
            raise OutcomeUnknown(told, backend="file", operation=self._operation) from error

    def release(self) -> None:
        """Unlock, then close: a child that was forked meanwhile has the descriptor too. The lock is not the child's."""
        try:
            if os.getpid() == self._owner:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        finally:
            os.close(self._lock)


def newest_beside(path: str, operation: str) -> FencingToken | None:
    """The token beside a file."""
    text = _read(path, operation, TOKEN, LONGEST_TOKEN + 1)
    if text is None:
        return None
    try:
        if not text.endswith(b"\n"):
            raise ConfigError("it does not end with a line")
        return FencingToken.parse(text[:-1].decode())
    except (ConfigError, UnicodeDecodeError) as error:
        told = f"{path}{TOKEN} holds no token: somebody else has written there"
        raise Misconfigured(told, backend="file", operation=operation) from error


def _read(path: str, operation: str, beside: str = "", most: int = -1) -> bytes | None:
    with _translated(operation, path):
        try:
            with open(path + beside, "rb") as file:
                return file.read(most)
        except FileNotFoundError:
            return None


def _lock(named: str, operation: str) -> _Held:
    """The lock of the file behind a name; `Unavailable` if somebody else has it."""
    path = os.path.realpath(named)  # whatever it is called, there is one lock
    _check_place(path, operation)
    while True:
        lock = os.open(path + LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, path + LOCK):
                return _Held(path, lock, operation)
        except BlockingIOError as error:
            os.close(lock)
            told = f"{operation} on {path}: another writer holds the lock"
            raise Unavailable(told, backend="file", operation=operation) from error
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # it was removed, and perhaps made again, between the two: once more


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _check_place(path: str, operation: str) -> None:
    """Refuse a place where the lock or the rename cannot be relied on."""
    told = ""
    _, kind = mount_of(path) or ("", "")
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse"):
        told = f"{path} is on a {kind} file system: its locks are not those of one machine"
    elif not os.path.isdir(os.path.dirname(path)):
        told = f"the directory {os.path.dirname(path)} does not exist"
    else:
        with suppress(FileNotFoundError):
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                told = f"{path} is not a file"
            elif found.st_nlink > 1:
                told = f"{path} has a second name (a hard link), which would keep the old content"
    if told:
        raise Misconfigured(told, backend="file", operation=operation)


def _content(data: object) -> bytes:
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError:
            raise ConfigError("a text must be encodable as UTF-8; this one has a lone surrogate") from None
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ConfigError(f"a file's content is bytes or a str, not {type(data).__name__}")
    return bytes(data)


def _another(path: str, held: str, offered: str) -> ConfigError:
    return ConfigError(f"the fence of {path} is of the election {held!r}, not of {offered!r}")


@contextmanager
def _translated(operation: str, path: str) -> Iterator[None]:
    """The one door: what an error of the file system means, by its number, until the file is renamed."""
    try:
        yield
    except OSError as error:
        kind: type[BackendError] = Unavailable  # no space, too many files, a disk that fails: the old file is there
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            kind = Rejected
        elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
            kind = Misconfigured
        raise kind(f"{operation} on {path}: {error}", backend="file", operation=operation) from error
