"""Wrong arguments are told as wrong files are: an error, a hint, exit code 2."""

import errno

import pytest
from cyclopts import App

from dataset_builder.__main__ import app
from dataset_builder.command_line import run


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ("build --sorce x", "unknown option: --sorce", "did you mean `--source`?"),
        ("bild", 'unknown command "bild"', "did you mean `build`?"),
        ("zebra", 'unknown command "zebra"', "available commands: build, audit, diff"),
        (
            "build --fit-length many",
            'invalid value for --fit-length: unable to convert "many" into int',
            "the command with `--help` alone says what it takes",
        ),
        (
            "audit one two\x1b[31m",
            "too many arguments: `one two\\x1b[31m`",
            "the command with `--help` alone says what it takes",
        ),
        (
            "diff one",
            'command "diff" parameter --b requires an argument',
            "the command with `--help` alone says what it takes",
        ),
    ],
)
def test_wrong_arguments_are_an_error_and_a_hint_on_stderr(capsys, arguments, error, hint):
    with pytest.raises(SystemExit) as ended:
        run(app, arguments.split(" "))
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert told.err.splitlines() == [f"error: {error}", f"hint: {hint}"]


def test_a_file_that_the_system_refuses_is_named_and_no_bug(capsys: pytest.CaptureFixture[str]):
    reading = App()

    @reading.default
    def refused() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/there/is")

    with pytest.raises(SystemExit) as ended:
        run(reading, [])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: /there/is: Permission denied\nhint: ")
