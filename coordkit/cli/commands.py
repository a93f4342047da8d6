"""The commands. Each command's module is imported when it is used, or listed by `--help`.

The rule: one place turns exceptions into exit codes, and that is here.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence

import click

from coordkit import __version__
from coordkit.cli.options import USAGE, Failure, failure, say
from coordkit.errors import CoordkitError

INTERRUPTED = 130  # as a shell counts a Ctrl-C

COMMANDS = {
    "run": "coordkit.cli.run:run",
    "leader": "coordkit.cli.watch:leader",
    "candidates": "coordkit.cli.watch:candidates",
    "observe": "coordkit.cli.watch:observe",
    "doctor": "coordkit.cli.doctor_command:doctor",
    "fence": "coordkit.cli.fence_command:fence",
    "demo": "coordkit.cli.demo:demo",
    "audit": "coordkit.cli.audit_command:audit",
}


class LazyGroup(click.Group):
    """Imports a command when it is asked for; one whose module is not there does not exist."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if self.get_command(ctx, name) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            return None
        return command


@click.group(cls=LazyGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="coordkit")
def coordkit() -> None:
    """Leader election from the shell: on one machine by a file, on many by etcd.

    \b
    coordkit run reports -- ./report.sh      run a command while leading, stop it in time
    coordkit leader reports                  who leads?
    """


class _Lines(logging.Handler):
    """The library's warnings, one line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit code. 130 after Ctrl-C, 2 for a mistake of the user's."""
    logger = logging.getLogger("coordkit")
    lines = _Lines()
    logger.addHandler(lines)
    try:
        returned = coordkit.main(arguments, prog_name="coordkit", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        say(error.format_message() + hint)
        return USAGE
    except Failure as error:
        say(error.format_message())
        return error.code
    except click.ClickException as error:
        say(error.format_message())
        return error.exit_code
    except CoordkitError as error:
        refused = failure(error)
        say(refused.format_message())
        return refused.code
    finally:
        logger.removeHandler(lines)
    return returned if isinstance(returned, int) else 0
