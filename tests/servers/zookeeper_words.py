"""ZooKeeper's four-letter words: a server is asked one over a connection of its own, and answers in text.

The rule: only what is said by a server that serves requests is believed; one that does not says so in one sentence.
"""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from enum import Enum

WORD_SECONDS = 1.0
NOT_SERVING = "is not currently serving requests"


class Mode(Enum):
    """What a server is to its ensemble."""

    LEADER = "leader"
    FOLLOWER = "follower"
    STANDALONE = "standalone"
    OBSERVER = "observer"
    READ_ONLY = "read-only"


@dataclass(frozen=True, slots=True)
class Standing:
    """What `srvr` tells: the mode, the newest transaction that was applied, and the version."""

    mode: Mode
    zxid: int
    version: str

    @property
    def epoch(self) -> int:
        """Of that transaction. A follower's is behind its leader's until the first transaction of a new epoch."""
        return self.zxid >> 32


@dataclass(frozen=True, slots=True)
class Connection:
    """One client's connection to a server, of `cons`. `session` is 0 before there is one, as for a word."""

    address: str
    session: int
    timeout: float  # s, as negotiated; 0 before there is a session


def ask(host: str, port: int, word: str, tls: ssl.SSLContext | None = None) -> str:
    """The answer to a word. `OSError`: none within about a second."""
    with socket.create_connection((host, port), timeout=WORD_SECONDS) as plain:
        asked = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        with asked:
            asked.sendall(word.encode("ascii"))
            answer = b""
            while data := asked.recv(1 << 16):
                answer += data
    return answer.decode(errors="replace")


def standing(srvr: str) -> Standing | None:
    """None of a server that serves nobody."""
    fields = dict(line.partition(": ")[::2] for line in srvr.splitlines())
    if NOT_SERVING in srvr or "Mode" not in fields:
        return None
    version = re.match(r"\d+(?:\.\d+)*", fields["Zookeeper version"])
    return Standing(Mode(fields["Mode"]), int(fields["Zxid"], 16), version[0] if version else "")


def numbers(mntr: str) -> dict[str, float]:
    """What `mntr` counts, each under its name without `zk_`. What is not a number is left out."""
    found = {}
    for line in mntr.splitlines():
        name, _, value = line.partition("\t")
        if re.fullmatch(r"-?\d+(?:\.\d+)?(?:E-?\d+)?", value):
            found[name.removeprefix("zk_")] = float(value)
    return found


def connections(cons: str) -> list[Connection]:
    """The connections that `cons` lists."""
    found = []
    for line in cons.splitlines():
        if listed := re.match(r" */(\S+)\[\d+\]\((.*)\)", line):
            fields = dict(field.partition("=")[::2] for field in listed[2].split(","))
            session, timeout = int(fields.get("sid", "0"), 16), int(fields.get("to", "0")) / 1000
            found.append(Connection(listed[1], session, timeout))
    return found


def sessions(dump: str) -> set[int]:
    """The sessions that the tracker of `dump` knows: all of the ensemble, if the leader was asked."""
    tracked = dump.partition("ephemeral nodes dump:")[0]
    return {int(line, 16) for line in map(str.strip, tracked.splitlines()) if re.fullmatch(r"0x[0-9a-f]+", line)}
