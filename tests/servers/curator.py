"""Apache Curator's `LeaderLatch` as a process of its own: a contender of the same election that is not coordkit.

The rule: it says a line for each thing that happens to it (see `java_sources/Latch.java`), and a test waits for lines,
never for time. It dies with the process that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Self

from tests.servers import java
from tests.servers.fetch import jars
from tests.servers.processes import spawn

SOURCE = Path(__file__).parent / "java_sources" / "Latch.java"
LINE_SECONDS = 30.0  # for what is due at once, on a machine that is busy with other things


class Latch:
    """One participant, called `name`, of the election at `path`. As a context manager: started, and killed in the end.

    `servers`: host:port,host:port… `session`: the timeout, in seconds, that it asks for.
    """

    def __init__(self, servers: str, path: str, name: str, *, session: float = 10.0, connect: float = 5.0) -> None:
        class_path = [*jars("curator"), *jars("zookeeper")]
        classes = java.compiled(SOURCE, class_path)
        self.name = name
        self.command = java.command(
            "Latch",
            [classes, *class_path],
            *(servers, path, name, str(round(session * 1000)), str(round(connect * 1000))),
            flags=["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"],
        )
        self.heard: list[str] = []  # guarded by `_news`
        self._read_up_to = 0  # of the test's thread alone
        self._ended = False  # guarded by `_news`
        self._news = threading.Condition()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Not awaited: `wait_for("created")` does that."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `kill`
        self._process = spawn(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        self._reader = threading.Thread(target=self._read, name=f"latch-{self.pid}", daemon=True)
        self._reader.start()

    def wait_for(self, word: str, timeout: float = LINE_SECONDS) -> str:
        """Wait for a line with this first word after those that were waited for already; what follows the word.

        Lines before it are passed over. `AssertionError`, with all that was said, if it does not come in time.
        """

        def found() -> int | None:
            lines = enumerate(self.heard[self._read_up_to :], start=self._read_up_to)
            return next((number for number, line in lines if line.split(" ")[0] == word), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._ended, timeout)
            number = found()
            if number is None:
                raise AssertionError(f"{self.name} did not say {word!r} in {timeout:g} s, but {self.heard}\n{self.log}")
            self._read_up_to = number + 1
            return self.heard[number].partition(" ")[2]

    def said(self, word: str) -> bool:
        """Whether `wait_for` would return at once."""
        with self._news:
            return any(line.split(" ")[0] == word for line in self.heard[self._read_up_to :])

    def participants(self) -> list[str]:
        """The ids of all participants as Curator sees them, first the one that it takes for the leader, with a star."""
        self._tell("participants")
        return sorted(self.wait_for("participants").split(), key=lambda name: not name.endswith("*"))

    def close(self) -> None:
        """Leave the election as Curator does, and wait for the end of the process."""
        self._tell("close")
        self.wait_for("closed")
        if status := self._process.wait(LINE_SECONDS):
            raise AssertionError(f"{self.name} ended with {status}\n{self.log}")

    def pause(self) -> None:
        """When this returns, none of its threads runs any more."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without asking, whatever it is doing; harmless twice."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    @property
    def log(self) -> str:
        """What Curator and ZooKeeper's client have to complain of."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def _tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.heard.append(line.decode().rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._log.close()
