"""The Docker Engine that runs the containers of the tests: the running one, else a `dockerd` of our own.

The rule: a running engine is used and left as it was. Ours is started only where that is allowed to us, keeps all
it has in a directory of its own, and is stopped by its pid. Whatever is lacking is told in one sentence, `NoEngine`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 30.0
COMMAND_SECONDS = 60.0
COMPOSE_SECONDS = 180.0
# `docker compose` is a plugin of the client, docker-compose 1.29 a program; they take the same arguments.
COMPOSE_COMMANDS = (("docker", "compose"), ("docker-compose",))
# With the first that dockerd starts with: its own choice, else the one that every kernel and container can do.
STORAGE: tuple[tuple[str, ...], ...] = ((), ("--storage-driver=vfs",))
PR_SET_PDEATHSIG = 1


class NoEngine(Exception):
    """No containers here; the message says what is lacking."""


class EngineFailed(Exception):
    """A command of docker or compose failed; `last_words` are its last line."""

    def __init__(self, command: tuple[str, ...], output: str) -> None:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        self.last_words = lines[-1] if lines else "without a word"
        super().__init__(f"{' '.join(command)} failed:\n{output.rstrip()}")


@dataclass(frozen=True, slots=True)
class Engine:
    """How to talk to an engine: the command of its compose, and what both commands need in their environment."""

    compose_command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def docker(self, *arguments: str, given: bytes = b"", timeout: float = COMMAND_SECONDS) -> str:
        """Run `docker`, with `given` as its input; what it wrote. Raises `EngineFailed`."""
        return self._run(("docker", *arguments), {}, given, timeout)[0]

    def compose(self, *arguments: str, variables: Mapping[str, str], timeout: float = COMPOSE_SECONDS) -> None:
        """Run compose with these variables for its file. Raises `EngineFailed`."""
        self._run((*self.compose_command, *arguments), variables, b"", timeout)

    def log_of(self, container: str, lines: int) -> str:
        """The last lines that a container wrote, on either stream."""
        return "".join(self._run(("docker", "logs", "--tail", str(lines), container), {}, b"", COMMAND_SECONDS))

    def _run(
        self, command: tuple[str, ...], variables: Mapping[str, str], given: bytes, timeout: float
    ) -> tuple[str, str]:
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **self.environment, **variables},
                input=given,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EngineFailed(command, f"no end in {timeout:.0f} s") from None
        output, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        if done.returncode != 0:
            raise EngineFailed(command, output + errors)
        return output, errors


@contextmanager
def engine(*, may_start: bool) -> Iterator[Engine]:
    """An engine for a while: the running one; where `may_start`, else one of our own. Raises `NoEngine`."""
    compose_command = _compose_command()
    if _answers(os.environ):
        yield Engine(compose_command)
        return
    if not may_start:
        raise NoEngine("no Docker Engine answers this user")
    dockerd = shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
    if not dockerd:
        raise NoEngine("no Docker Engine and no program dockerd")
    if os.geteuid() != 0:
        raise NoEngine("no Docker Engine and dockerd may not be started by this user")
    with _dockerd(dockerd) as environment:
        yield Engine(compose_command, environment)


def running_engine() -> Engine:
    """The engine that runs already. Raises `NoEngine`."""
    with engine(may_start=False) as running:
        return running


def _compose_command() -> tuple[str, ...]:
    if not shutil.which("docker"):
        raise NoEngine("no program docker")
    for command in COMPOSE_COMMANDS:
        if shutil.which(command[0]) and _succeeds((*command, "version"), os.environ):
            return command
    raise NoEngine("neither `docker compose` nor docker-compose")


def _answers(environment: Mapping[str, str]) -> bool:
    return _succeeds(("docker", "version", "--format", "{{.Server.Version}}"), environment)


def _succeeds(command: tuple[str, ...], environment: Mapping[str, str]) -> bool:
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@contextmanager
def _dockerd(program: str) -> Iterator[dict[str, str]]:
    """A dockerd of our own; the environment that leads to it. Raises `NoEngine` with its last words."""
    # Its sockets need a short path.
    place = Path(tempfile.mkdtemp(prefix="coordkit-dockerd-"))
    socket = f"unix://{place}/docker.sock"
    environment = {"DOCKER_HOST": socket}
    settings = place / "daemon.json"
    settings.write_text("{}", encoding="ascii")
    last_words = ""
    try:
        for storage in STORAGE:
            log = place / "log"
            command = (
                program,
                f"--config-file={settings}",  # those of the machine's own dockerd are not ours
                f"--host={socket}",
                f"--data-root={place}/data",
                f"--exec-root={place}/exec",
                f"--pidfile={place}/pid",
                "--bridge=none",  # each project has networks of its own
                # The machine's firewall and routing stay as they are: loopback ports are served by docker-proxy.
                *("--iptables=false", "--ip6tables=false", "--ip-forward=false"),
                *storage,
            )
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C ends the tests first
                    preexec_fn=_end_with_parent,  # noqa: PLW1509 - asked for before any thread starts
                )
            try:
                if _comes_up(process, environment):
                    print(f"compose: {' '.join(('dockerd', *storage))} started, pid {process.pid}", flush=True)
                    yield environment
                    return
            finally:
                _end(process)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            last_words = lines[-1] if lines else "it said nothing"
        raise NoEngine(f"dockerd does not start here ({last_words})")
    finally:
        _remove(place)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _comes_up(process: subprocess.Popen[bytes], environment: Mapping[str, str]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _answers(os.environ | environment):
            return True
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
        return False
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove(place: Path) -> None:
    """A dockerd that is gone leaves mounts in its directory: the innermost goes first."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    points = [line.split()[4] for line in mounts]
    for point in sorted(points, key=len, reverse=True):
        if Path(point).is_relative_to(place):
            subprocess.run(["umount", "--lazy", point], check=False, timeout=COMMAND_SECONDS)
    shutil.rmtree(place)
