"""The trained weights as a run began, which it is held against: no second model is needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Start:
    """What is trained of `model`, as it now is."""

    def __init__(self, model: Any) -> None:
        trained = [each for each in model.parameters() if each.requires_grad]
        self._kept = [(each, each.detach().clone()) for each in trained]

    @contextmanager
    def again(self) -> Iterator[None]:
        """The model as it was; afterwards as it is."""
        now = [parameter.detach().clone() for parameter, _ in self._kept]
        try:
            for parameter, start in self._kept:
                parameter.data.copy_(start)
            yield
        finally:
            for (parameter, _), value in zip(self._kept, now, strict=True):
                parameter.data.copy_(value)
