"""When the steady steps of a trainer began and ended."""

import math
import time
from collections.abc import Callable
from typing import Any

from bench.parts import tell
from bench.rows import Rows

WARM = 3  # steps before the window: compilation, the allocator, the first reads
TOLD = 5.0  # seconds from one telling of what was found to the next


class Clock:
    """A trainer callback that stops it when the window is over.

    With `seconds` the whole process may take so many, its start among them: the window ends with
    them, `fewest` steps or not. `tell` gets the result so far every few seconds.
    """

    def __init__(
        self,
        window: float,
        batch: int,
        rows: Rows,
        fewest: int = WARM,
        seconds: float = math.inf,
        tell: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        import psutil

        self.window, self.batch, self.rows, self.fewest = window, batch, rows, fewest
        self.seconds, self.tell = seconds, tell
        # From the process's own beginning, its imports included.
        self.created = time.perf_counter() - (time.time() - psutil.Process().create_time())
        self.last, self.began, self.ended, self.first = 0, 0.0, 0.0, 0.0

    def callback(self) -> Any:
        import torch
        from transformers import TrainerCallback

        clock = self

        class Timed(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                step = state.global_step
                is_over = (
                    step > max(WARM, clock.fewest)
                    and time.perf_counter() - clock.began > clock.window
                )
                is_late = time.perf_counter() - clock.created > clock.seconds
                is_over |= is_late and step > WARM
                is_told = (
                    clock.tell is not None
                    and step > WARM
                    and time.perf_counter() - max(clock.began, clock.ended) > TOLD
                )
                # Between the two ends hardly anything waits for the card, so that it never waits
                # for us.
                if torch.cuda.is_available() and (step in (1, WARM) or is_over or is_told):
                    torch.cuda.synchronize()
                now = time.perf_counter()
                if step == 1:
                    clock.first = now - clock.created
                if step == WARM:
                    clock.began = now
                if is_over or is_told:
                    clock.last, clock.ended = step, now
                if is_over:
                    control.should_training_stop = True
                elif is_told and clock.tell is not None:
                    clock.tell(clock.result())

        return Timed()

    def result(self) -> dict[str, Any]:
        import torch

        seconds = self.ended - self.began
        tokens = self.rows.tokens(WARM * self.batch, self.last * self.batch)
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return {
            "tokens_per_second": tokens / seconds,
            "examples_per_second": (self.last - WARM) * self.batch / seconds,
            "window": seconds,
            "steps": self.last - WARM,
            "first_step": self.first,
            "gigabytes": peak / 1e9,
        }


class Steps:
    """The seconds of the steps after the first ones, in whole rollouts; `found` is told after each
    of these.
    """

    def __init__(
        self, warm: int, steps: int, rollout: int, found: Callable[[], dict[str, Any]]
    ) -> None:
        self.warm, self.steps, self.rollout, self.found = warm, steps, rollout, found
        self.began, self.ended, self.done = 0.0, 0.0, 0

    def callback(self) -> Any:
        import torch
        from transformers import TrainerCallback

        steps = self

        class Timed(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                done = state.global_step - steps.warm
                if done < 0 or done % steps.rollout:
                    return
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                now = time.perf_counter()
                if done == 0:
                    steps.began = now
                    steps.found()
                    return
                steps.ended, steps.done = now, done
                tell(steps.found() | {"seconds": steps.seconds, "steps": done})
                control.should_training_stop |= done >= steps.steps

        return Timed()

    @property
    def seconds(self) -> float:
        """Of one step."""
        return (self.ended - self.began) / self.done
