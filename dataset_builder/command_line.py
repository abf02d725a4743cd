"""How every command meets its user: data on stdout, talk on stderr, exit codes 0, 1 and 2."""

import re
import sys
from typing import Never

from cyclopts import App, CycloptsError, UnusedCliTokensError
from rich.console import Console

from dataset_builder.artifacts import DISK
from dataset_builder.errors import InputError
from dataset_builder.printable import printable

# Talk: progress, funnels, warnings. What a command is asked for goes to `data`.
talk = Console(stderr=True, highlight=False)
data = Console(highlight=False)

# Where what Cyclopts says goes over to what one could have typed.
_REST = re.compile(r" (?=Did you mean|Available commands:|Choose from:)")


def run(app: App, arguments: list[str] | None = None) -> Never:
    """Run `app` and exit: 0 done, 2 the user's to mend, 1 (with a traceback) ours."""
    try:
        app(
            arguments,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except InputError as error:
        _tell(str(error), error.hint)
        sys.exit(2)
    except CycloptsError as error:
        _tell(*usage(error))
        sys.exit(2)
    except OSError as error:  # of a file that no part of us expected to be refused
        if error.errno not in DISK or error.filename is None:
            raise
        _tell(f"{error.filename}: {error.strerror}", "look at that disk and the permissions there")
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def usage(error: CycloptsError) -> tuple[str, str]:
    """What Cyclopts says of wrong arguments, as a message and a hint like ours."""
    if isinstance(error, UnusedCliTokensError):
        message, rest = f"too many arguments: `{' '.join(error.unused_tokens or [])}`", ""
    else:
        told = " ".join(str(error).split())
        message, rest = (*_REST.split(told, maxsplit=1), "")[:2]
        message = message.rstrip(".")
        message = message[:1].lower() + message[1:]
    near = re.search(r'Did you mean "?(.+?)"?\?', rest)
    if near:
        return message, f"did you mean `{near.group(1)}`?"
    if rest:
        return message, rest[0].lower() + rest[1:].rstrip(".")
    return message, "the command with `--help` alone says what it takes"


def _tell(message: str, hint: str | None) -> None:
    # Plain print, never markup: the message quotes what the user, or a file, wrote.
    print(f"error: {printable(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)
