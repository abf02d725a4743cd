"""Commands done one after another in one process, which imports the large libraries and meets the
GPU once for all of them.

`python -m evals.worker` reads a line of JSON for each: which package's command, its arguments, and
a file for what it says. It answers with a line: the exit code. After one that failed it ends, since
what failed may have left the card or a library in any state; whoever started it starts another.
"""

import gc
import json
import os
import sys
from collections.abc import Sequence

from dataset_builder.command_line import run
from finetune.launch import die_with_parent


def main() -> None:
    """Do what is asked on stdin, until it ends or something fails."""
    die_with_parent()  # a command that goes on alone would keep its run from being resumed
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        _say_into(asked["log"])
        code = _do(asked["package"], asked["arguments"])  # a crash is a traceback in the log
        sys.stdout.flush()
        sys.stderr.flush()
        print(json.dumps({"code": code}), file=answers, flush=True)
        if code:
            return
        _tidy()


def _do(package: str, arguments: Sequence[str]) -> int:
    """The exit code of `python -m PACKAGE ARGUMENTS`."""
    if package == "finetune":
        from finetune.__main__ import app
    else:
        from evals.__main__ import app
    try:
        run(app, list(arguments))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def _say_into(path: str) -> None:
    """Let all that this process says go to the end of a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _tidy() -> None:
    """Give back what a command leaves: memory that other processes on the card may want, and what
    was compiled for a model that is gone, of which a process keeps only so many kinds.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
