"""The commands in process, on `memory://`: exit codes, what is printed, and that a mistake is one line."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

import coordkit
from coordkit import LeaderElector, testing
from coordkit.cli import commands, gate, main
from coordkit.cli.commands import COMMANDS, LazyGroup
from coordkit.cli.options import default_url, failure, one_line, say
from coordkit.cli.processes import Group
from coordkit.cli.supervise import Supervision
from coordkit.errors import (
    BackendNotInstalled,
    CampaignTimeout,
    ConfigError,
    CoordkitError,
    ElectorClosed,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)

URL = "memory://cli"
ELECTION = "reports/nightly"


@dataclass(frozen=True)
class Done:
    """A command line that has run."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line in this process."""
    monkeypatch.setenv("COORDKIT_URL", URL)

    def run(*arguments: str) -> Done:
        code = main(arguments)
        read = capfd.readouterr()
        return Done(code, read.out, read.err)

    return run


@pytest.fixture
def leader() -> Iterator[LeaderElector]:
    elector = LeaderElector(URL, ELECTION, label="web", metadata="10.0.0.1:80")
    with elector.lead():
        yield elector
    elector.close()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


# -- the group -----------------------------------------------------------------------------------------------


def test_help_names_the_commands(cli: Command) -> None:
    done = cli("--help")
    assert done.code == 0
    for each in ("run", "leader", "candidates", "observe"):
        assert f"\n  {each} " in done.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_there_is_documents_its_exit_codes(cli: Command, name: str) -> None:
    group = LazyGroup("coordkit")
    if group.get_command(click.Context(group), name) is not None:
        done = cli(name, "--help")
        assert done.code == 0
        assert "Exit codes:" in done.out


def test_a_command_whose_module_is_not_there_does_not_exist(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "later", "coordkit.cli.later:later")
    assert cli("later").err == "coordkit: No such command 'later'. (see coordkit --help)\n"
    assert "later" not in cli("--help").out


@pytest.mark.parametrize("package", ["click", "rich"])
def test_without_the_packages_of_the_extra_it_says_what_to_install(
    cli: Command, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_pretty_command.py").write_text("import rich")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(COMMANDS, "pretty", "a_pretty_command:pretty")
    monkeypatch.setitem(sys.modules, package, None)
    if package == "click":
        monkeypatch.delitem(sys.modules, "coordkit.cli.commands")
    done = cli("pretty")
    assert done == Done(69, "", f"coordkit: {package} is not installed: pip install 'coordkit[cli]'\n")


def test_a_module_of_ours_that_is_missing_is_not_taken_for_a_package(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "coordkit.cli.watch", raising=False)
    monkeypatch.setitem(sys.modules, "coordkit.elector", None)
    with pytest.raises(ModuleNotFoundError, match=r"coordkit\.elector"):
        cli("leader", "x")


def test_the_library_does_not_import_click() -> None:
    show = "import sys, coordkit, coordkit.cli; print([name for name in ('click', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "coordkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("coordkit, version")


def test_the_version(cli: Command) -> None:
    assert cli("--version").out == f"coordkit, version {coordkit.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing command."),
        (["lead"], "No such command 'lead'."),
        (["leader"], "Missing argument 'NAME'."),
        (["leader", "--nope", "x"], "No such option"),
        (["leader", "a//b"], "none empty, '.' or '..'"),
        (["leader", "--timeout", "0", "x"], "--timeout must be finite and > 0 seconds"),
        (["leader", "--url", "foo://", "x"], "the scheme 'foo' is none of"),
        (["leader", "--url", "sqlite://host/x", "x"], "names no host"),
        (["run", "x"], "Missing argument '-- CMD…'"),
        (["run", "--wait", "1", "--no-wait", "x", "--", "true"], "exclude each other"),
        (["run", "--wait", "nan", "x", "--", "true"], "--wait must be finite"),
        (["run", "--ttl", "soon", "x", "--", "true"], "'soon' is not a valid float"),
        (["run", "--ttl", "0", "x", "--", "true"], "--ttl must be finite and > 0 seconds"),
        (["run", "--ttl", "0.5", "x", "--", "true"], "leaves no room to stop a command in time"),
        (["run", "--hold", "-1", "x", "--", "true"], "--hold must be finite and >= 0 seconds"),
        (["run", "--signal", "STOP", "x", "--", "true"], "'STOP' is no signal that ends a command"),
        (["run", "--signal", "99", "x", "--", "true"], "'99' is no signal"),
        (["run", "--signal", "TREM", "x", "--", "true"], "'TREM' is no signal"),
        (["run", "--label", "a\nb", "x", "--", "true"], "no control characters"),
    ],
)
def test_a_mistake_is_one_line_and_2(cli: Command, arguments: Sequence[str], says: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.count("\n") == 1
    assert done.err.startswith("coordkit: ")


def test_no_mistake_shows_a_password(cli: Command) -> None:
    for url in ("foo://user:secret@host/", "memory://user:secret@x", "sqlite://user:secret@host/x"):
        done = cli("leader", "--url", url, "x")
        assert done.code == 2
        assert "secret" not in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (BackendNotInstalled("x"), 69),
        (Unavailable("x"), 69),
        (OutcomeUnknown("x"), 69),
        (Rejected("x"), 78),
        (Misconfigured("x"), 78),
        (CampaignTimeout("x"), 75),
        (ElectorClosed("x"), 70),
    ],
)
def test_every_error_has_its_exit_code(error: CoordkitError, code: int) -> None:
    assert failure(error).code == code
    assert failure(error).format_message() == "x"


@pytest.mark.parametrize(
    ("cause", "code"), [(Unavailable("down"), 69), (Rejected("no"), 78), (TimeoutError("the time"), 75)]
)
def test_a_campaign_that_ran_out_tells_whether_the_backend_failed(cause: Exception, code: int) -> None:
    try:
        raise CampaignTimeout("not elected") from cause
    except CampaignTimeout as error:
        found = failure(error)
    assert found.code == code
    assert found.format_message() == ("not elected" if code == 75 else f"not elected: {cause}")


def test_errors_of_the_library_that_a_command_lets_through_are_one_line_too(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException] = [
        Unavailable("the backend\nis away"),
        KeyboardInterrupt(),
        click.Abort(),
        click.FileError("x", "no"),
    ]

    @click.command()
    def fails() -> None:
        raise errors.pop(0)

    monkeypatch.setattr(LazyGroup, "get_command", lambda self, context, name: fails)
    assert cli("fails") == Done(69, "", "coordkit: the backend is away\n")
    assert cli("fails").code == 130
    assert cli("fails") == Done(130, "", "")
    assert cli("fails") == Done(1, "", "coordkit: Could not open file 'x': no\n")


def test_a_ctrl_c_during_the_imports_is_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run_command_line", interrupted)
    assert main([]) == 130


def test_what_is_said_goes_nowhere_when_stderr_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    say("x")
    say("y")
    assert sys.stderr is None


def test_text_from_a_store_cannot_move_the_cursor() -> None:
    assert one_line("a\n\x1b[31mb\tc \u2028é\0") == r"a \x1b[31mb c  é\x00"


# -- the default URL -----------------------------------------------------------------------------------------


def test_the_default_is_a_file_of_this_user_and_says_so(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COORDKIT_URL")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "my state"))
    done = cli("leader", ELECTION)
    assert (done.code, done.out) == (1, "reports/nightly vacant\n")
    assert "this machine and this user only" in done.err
    folder = tmp_path / "my state" / "coordkit"
    assert (folder / "elections.db").exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_default_without_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"sqlite://{tmp_path}/.local/state/coordkit/elections.db"
    assert default_url({}) == url
    assert default_url({"XDG_STATE_HOME": "relative/is/ignored"}) == url


def test_a_default_that_cannot_be_made_is_69(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDKIT_URL")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    done = cli("leader", ELECTION)
    assert done.code == 69
    assert done.err.count("\n") == 1


# -- looking -------------------------------------------------------------------------------------------------


def test_leader_of_a_vacant_election_is_1(cli: Command) -> None:
    assert cli("leader", "nobody") == Done(1, "nobody vacant\n", "")
    done = cli("leader", "--json", "nobody")
    assert done.code == 1
    assert json.loads(done.out) == {"election": "nobody", "leader": None}


def test_leader_prints_token_candidate_and_metadata(cli: Command, leader: LeaderElector) -> None:
    term = leader.term
    assert term is not None
    assert cli("leader", ELECTION) == Done(0, f"{term.token} {term.candidate.id} 10.0.0.1:80\n", "")
    candidate = {"id": term.candidate.id, "label": "web", "metadata": "10.0.0.1:80"}
    assert json.loads(cli("leader", "--json", ELECTION).out) == {
        "election": ELECTION,
        "leader": {"token": int(term.token), "candidate": candidate, "metadata": "10.0.0.1:80"},
    }


def test_candidates(cli: Command, leader: LeaderElector) -> None:
    term = leader.term
    assert term is not None
    assert cli("candidates", ELECTION) == Done(0, f"{term.candidate.id}\n", "")
    (found,) = json.loads(cli("candidates", "--json", ELECTION).out)["candidates"]
    assert found["label"] == "web"
    assert cli("candidates", "nobody") == Done(1, "", "")
    assert json.loads(cli("candidates", "--json", "nobody").out) == {"election": "nobody", "candidates": []}


@pytest.mark.parametrize("command", ["leader", "candidates"])
def test_a_backend_that_does_not_answer_is_69(cli: Command, command: str) -> None:
    with testing.faults("cli") as faults:
        faults.cut()
        done = cli(command, "--timeout", "0.1", ELECTION)
    assert (done.code, done.out) == (69, "")
    assert done.err.count("\n") == 1


def test_observe_prints_states_until_it_is_interrupted(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def states(self: LeaderElector) -> Iterator[None]:
        yield None
        yield None
        raise KeyboardInterrupt

    monkeypatch.setattr(LeaderElector, "observe", states)
    done = cli("observe", ELECTION)
    assert (done.code, done.out) == (130, "reports/nightly vacant\n" * 2)
    done = cli("observe", "--json", ELECTION)
    assert [json.loads(line)["leader"] for line in done.out.splitlines()] == [None, None]


# -- running -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_code_of_the_command_is_ours(cli: Command, script: str, code: int) -> None:
    assert cli("run", ELECTION, "--", "sh", "-c", script) == Done(code, "", "")
    assert cli("leader", ELECTION).code == 1


def test_the_command_may_have_options_of_its_own(cli: Command) -> None:
    assert cli("run", "--ttl", "5", ELECTION, "--", "echo", "--ttl", "x").out == "--ttl x\n"


def test_the_environment_of_the_command(cli: Command) -> None:
    done = cli("run", "--label", "me", ELECTION, "--", "sh", "-c", "env | grep ^COORDKIT_ | sort")
    found = dict(line.split("=", 1) for line in done.out.splitlines())
    assert found["COORDKIT_ELECTION"] == ELECTION
    assert found["COORDKIT_URL"] == URL
    assert int(found["COORDKIT_TOKEN"]) > 0
    assert found["COORDKIT_CANDIDATE"].startswith("me@")


def test_commands_that_cannot_run(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert cli("run", ELECTION, "--", "no-such-command").code == 127
    assert cli("run", ELECTION, "--", str(tmp_path / "none")).code == 127
    assert cli("run", ELECTION, "--", str(tmp_path / "x")).code == 126


def test_elsewhere_than_on_linux_run_says_that_it_cannot(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordkit.cli.run.LINUX", False)
    done = cli("run", ELECTION, "--", "true")
    assert done.code == 69
    assert "needs Linux" in done.err


def test_whoever_does_not_wait_is_75(cli: Command, leader: LeaderElector) -> None:
    assert cli("run", "--no-wait", ELECTION, "--", "true") == Done(75, "", "")
    assert cli("run", "--wait", "0.05", ELECTION, "--", "true") == Done(
        75, "", "coordkit: not elected in 'reports/nightly' within 0.05 s\n"
    )


def test_a_loss_with_once_is_76(cli: Command) -> None:
    with testing.faults("cli") as faults:
        cut = threading.Timer(0.3, faults.cut)
        cut.start()
        done = cli("run", "--ttl", "1", "--once", ELECTION, "--", "sleep", "60")
        cut.join()
        faults.heal()
        wait_for(lambda: not faults.entries(ELECTION))
    assert done.code == 76
    assert "coordkit: the lease is lost or in danger: the command is told to end\n" in done.err


def test_a_loss_is_followed_by_another_campaign(cli: Command, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    script = f'echo "$COORDKIT_TOKEN" >> {marks}; [ "$(wc -l < {marks})" = 2 ] || sleep 60'

    def lose(faults: testing.StoreFaults) -> None:
        wait_for(marks.exists)
        faults.expire(ELECTION)

    with testing.faults("cli") as faults:
        losing = threading.Thread(target=lose, args=(faults,))
        losing.start()
        done = cli("run", "--ttl", "2", ELECTION, "--", "sh", "-c", script)
        losing.join()
    assert done.code == 0
    first, second = map(int, marks.read_text().split())
    assert first < second


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_while_waiting_ends_it(cli: Command, leader: LeaderElector, signum: signal.Signals) -> None:
    with testing.faults("cli") as faults:

        def interrupt() -> None:
            wait_for(lambda: len(faults.entries(ELECTION)) == 2)
            os.kill(os.getpid(), signum)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        done = cli("run", ELECTION, "--", "true")
        assert (done.code, done.out) == (128 + signum, "")
        assert "Traceback" not in done.err
        interrupting.join()
        wait_for(lambda: len(faults.entries(ELECTION)) == 1)  # it left the queue
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_signal_is_forwarded(cli: Command, tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    def interrupt() -> None:
        wait_for(ready.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    done = cli("run", ELECTION, "--", "sh", "-c", f"trap 'exit 9' TERM; touch {ready}; while :; do sleep 0.01; done")
    interrupting.join()
    assert done.code == 9
    assert cli("leader", ELECTION).code == 1


def test_hold_keeps_the_seat(cli: Command) -> None:
    started = time.monotonic()
    assert cli("run", "--hold", "0.3", ELECTION, "--", "true").code == 0
    assert time.monotonic() - started >= 0.3


def test_a_signal_ends_the_hold_and_leaves_the_seat_to_its_lease(cli: Command, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def interrupt() -> None:
        wait_for(ran.exists)
        wait_for(lambda: not children())
        os.kill(os.getpid(), signal.SIGTERM)

    def children() -> str:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    done = cli("run", "--ttl", "2", "--hold", "60", "held", "--", "touch", str(ran))
    interrupting.join()
    assert done.code == 0  # the command's
    assert cli("leader", "held").code == 0


def test_processes_that_cannot_be_started_are_71(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordkit.cli.processes._BARE_PYTHON", ("/no/such/python",))
    done = cli("run", ELECTION, "--", "true")
    assert done.code == 71
    assert "a process cannot be started" in done.err
    assert cli("leader", ELECTION).code == 1


def test_a_guard_that_cannot_be_started_is_71(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    monkeypatch.setattr("coordkit.cli.processes._HERE", _with_a_broken_guard(tmp_path))
    done = cli("run", ELECTION, "--", "touch", str(ran))
    assert done.code == 71
    assert "the guard ended before it was armed" in done.err
    assert not ran.exists()
    assert cli("leader", ELECTION).code == 1


def _with_a_broken_guard(folder: Path) -> Path:
    (folder / "gate.py").write_text(Path(gate.__file__).read_text(encoding="utf-8"))
    (folder / "guard.py").write_text("raise SystemExit")
    return folder


def test_a_fault_of_ours_leaves_no_process(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Supervision, now: object) -> None:
        raise ZeroDivisionError

    groups: list[Group] = []

    class Noted(Group):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            groups.append(self)

    monkeypatch.setattr(Supervision, "_tend_guard", fails)
    monkeypatch.setattr("coordkit.cli.run.Group", Noted)
    with pytest.raises(ZeroDivisionError):
        cli("run", "--ttl", "2", ELECTION, "--", "sleep", "60")
    assert groups[0].exit_code() == 137


def test_closed_standard_streams_are_filled() -> None:
    script = "import os, sys; os.close(0); from coordkit.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "--url", URL, ELECTION, "--", "readlink", "/proc/self/fd/0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "/dev/null\n"
