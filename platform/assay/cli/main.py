"""The `assay` command. Each command imports what it needs when it is called, so that `--help` is
quick."""

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

import click

from assay import __version__
from assay.cli import releases, runs, specs
from assay.cli.commands.gate import gate
from assay.cli.place.artifacts import gc, models
from assay.cli.place.console import console
from assay.cli.place.doctor import doctor
from assay.cli.place.policy import policy
from assay.cli.place.proof import audit, keys, verify
from assay.cli.place.users import login, users
from assay.cli.terminal.echo import echo
from assay.errors import EXIT_CODE_MEANINGS, AssayError, ExitCode, InvalidInput, PlaceError
from assay.text import printable

INTERRUPTED = 130  # what shells expect after Ctrl-C

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {code.value:>3}  {text}" for code, text in EXIT_CODE_MEANINGS.items()
)
_EXIT_CODES += f"\n  {INTERRUPTED}  interrupted by Ctrl-C; finished stages are kept"


@click.group(
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="assay")
@click.option(
    "-v", "--verbose", is_flag=True, help="Say on standard error what is done, step by step."
)
def assay(verbose: bool) -> None:
    """From a YAML spec to a gated, approved, served language model on Ray."""
    from assay import secrets_file

    # A file of secrets that is not as it should be is told by whatever needs one of them.
    with suppress(PlaceError):
        secrets_file.take_addresses()
    if verbose:
        import logging

        logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        logging.getLogger("assay").setLevel(logging.DEBUG)


for command in (gate, keys, verify, audit, users, login, policy, doctor, console, models, gc):
    assay.add_command(command)
for command in (*specs.COMMANDS, *runs.COMMANDS, *releases.COMMANDS):
    assay.add_command(command)


def main() -> None:
    """Runs the command; the one place where errors become exit codes."""
    # A terminal that closes interrupts, as Ctrl-C does; under nohup it is ignored, and stays so.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        assay.main(standalone_mode=False)
    except InvalidInput as error:
        from assay.cli.problems import print_problems

        print_problems(error)
        sys.exit(error.exit_code)
    except AssayError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        _fail(
            "interrupted; what was finished is kept, and the same command goes on from there",
            INTERRUPTED,
        )
    except BrokenPipeError:
        # Python flushes standard output once more when it ends, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)


def _fail(message: str, code: int) -> NoReturn:
    echo(f"{click.style('error', fg='red', bold=True)}: {printable(message)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
