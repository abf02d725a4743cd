"""How every command meets its user: data on stdout, talk on stderr, exit codes 0, 1 and 2."""

import sys
from typing import Never

from cyclopts import App, CycloptsError
from rich.console import Console

from dataset_builder.errors import InputError
from dataset_builder.printable import printable

# Talk: progress, funnels, warnings. What a command is asked for goes to `data`.
talk = Console(stderr=True, highlight=False)
data = Console(highlight=False)


def run(app: App, arguments: list[str] | None = None) -> Never:
    """Run `app` and exit: 0 done, 2 the user's to mend, 1 (with a traceback) ours."""
    try:
        app(
            arguments,
            exit_on_error=False,
            error_console=Console(stderr=True),
            result_action="return_value",
        )
    except InputError as error:
        # Plain print, never markup: the message quotes what the user, or a file, wrote.
        print(f"error: {printable(str(error))}", file=sys.stderr)
        if error.hint:
            print(f"hint: {printable(error.hint)}", file=sys.stderr)
        sys.exit(2)
    except CycloptsError:  # already printed, with the near miss
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
