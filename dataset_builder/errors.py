"""The one error a user can mend."""


class InputError(Exception):
    """Something the user gave is wrong, and the message says where, what was found and what was
    wanted.

    `hint` is the next thing to type or to change. Commands print both and exit with 2; every other
    exception is our bug and keeps its traceback.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
