"""What a run writes down as it goes: a line per step, and whole checkpoints with where it stood."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import TrainerCallback

from dataset_builder.errors import InputError
from finetune import checkpoints, launch
from finetune.oom import Pieces
from finetune.previews import Previewer
from finetune.progress import Step, Watcher
from finetune.rows import Budget
from finetune.run import Segment

# The share of a run's time that previews may take without a word.
PREVIEW_SHARE = 0.05


class Recorder(TrainerCallback):
    """Writes metrics.jsonl and turns what the trainer saves into checkpoints.

    Counts seconds of training only. Rates are of the last `log_steps` steps, so that a line shows
    what happened since the one before it.
    """

    def __init__(
        self,
        budget: Budget,
        batch: int,
        folder: Path,
        device: Any,
        watcher: Watcher,
        before: checkpoints.Complete | None,
        previewer: Previewer,
        pieces: Pieces,
        *,
        started: str,
        segment: Segment,
        log_steps: int,
        peak_tokens: float | None = None,
        terms: Sequence[str] = (),
    ) -> None:
        self.budget = budget
        self.batch = batch
        self.started = started
        self.log_steps = log_steps
        self.terms = terms  # that the trainer logs beside the loss
        self.peak_tokens = peak_tokens  # a second, if it did nothing but multiply
        self.folder = folder
        self.device = device
        self.watcher = watcher
        self.previewer = previewer
        self.pieces = pieces
        self.seconds = before.seconds if before else 0.0
        self.resumed = [*before.resumed, before.step] if before else []
        self.segments = [*(before.segments if before else []), segment]
        self._earlier_peak = (before.peak_memory or 0) if before else 0
        self.settle: Callable[[], None] = lambda: None  # tells of the step before, if it was not
        self.counted = self._planned  # the tokens of a step, and those trained
        self._since: float | None = None  # since when training goes on without a pause
        self._told = self.seconds  # up to the last line
        self._tokens: deque[int] = deque(maxlen=log_steps)
        self._seconds: deque[float] = deque(maxlen=log_steps)
        self._has_told_cost = False

    def _planned(self, step: int) -> tuple[int, int]:
        place = step - 1
        return self.budget.tokens_by_step[place], self.budget.trained_tokens_by_step[place]

    def peak_memory(self) -> int | None:
        """Bytes on the GPU, over all parts of the run; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return max(self._earlier_peak, torch.cuda.max_memory_allocated(self.device))

    def until(self, step: int) -> list[Segment]:
        """The run's segments, the last one ended at `step`."""
        *before, last = self.segments
        return [*before, msgspec.structs.replace(last, until=step)]

    def pauses(self, state: Any, control: Any) -> bool:
        """Whether something other than training comes after this step. Everything is a pause for a
        CPU, which makes a step as it is given.
        """
        return (
            self.device.type != "cuda"
            or control.should_save
            or control.should_training_stop
            or state.global_step >= self.budget.steps
            or state.global_step % self.previewer.previews.steps == 0
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.pauses(state, control):
            self.settle()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds, self._since = self._spent(), None

    def _spent(self) -> float:
        """Seconds of training so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self.seconds + running

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if "loss" not in logs:  # the trainer's summary at the end
            return
        place = state.global_step - 1
        spent = self._spent()
        self._seconds.append(spent - self._told)
        tokens, trained = self.counted(state.global_step)
        self._tokens.append(tokens)
        self._told = spent
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"step {state.global_step}: the loss is {logs['loss']}",
                "lower `learning_rate` in the preset, or set `precision` to `bf16` or `fp32`",
            )
        rate = sum(self._tokens) / sum(self._seconds)
        step = Step(
            step=state.global_step,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=_finite(float(logs["grad_norm"])),
            tokens=tokens,
            trained_tokens=trained,
            tokens_per_second=round(rate, 1),
            peak_share=round(rate / self.peak_tokens, 4) if self.peak_tokens else None,
            examples_seen=state.global_step * self.batch,
            memory=self.peak_memory(),
            seconds=round(spent, 3),
            terms={name: logs[name] for name in self.terms},
            seconds_left=round(self._training_left(place) + self._previews_left(place), 1),
        )
        with (self.folder / "metrics.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(step) + b"\n")
        self.watcher.stepped(step, self.budget.steps)
        if step.step % self.log_steps == 0 and not self._has_told_cost:
            self._has_told_cost = True
            self._tell_cost_of_previews(place)

    def _training_left(self, place: int) -> float:
        return (self.budget.steps - place - 1) * sum(self._seconds) / len(self._seconds)

    def _previews_left(self, place: int) -> float:
        return self.previewer.seconds_left(place + 1, self.budget.steps)

    def _tell_cost_of_previews(self, place: int) -> None:
        """Previews are never left out to save time, so what they will cost is said."""
        previews = self.previewer.seconds + self._previews_left(place)
        share = previews / (previews + self._told + self._training_left(place))
        if share > PREVIEW_SHARE:
            self.watcher.say(
                f"previews will take about {share:.0%} of this run's time; a larger `steps`,"
                " or fewer `prompts` or `tokens`, in [previews] would make that less"
            )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # What was written up to this step must outlive the machine before the checkpoint that
        # vouches for it exists.
        for name in ("metrics.jsonl", "previews.jsonl"):
            if (self.folder / name).exists():
                with (self.folder / name).open("rb") as file:
                    os.fsync(file.fileno())
        checkpoints.keep(
            Path(args.output_dir) / f"checkpoint-{state.global_step}",
            self.folder,
            checkpoints.Complete(
                step=state.global_step,
                seconds=self.seconds,
                preview_seconds=self.previewer.seconds,
                peak_memory=self.peak_memory(),
                resumed=self.resumed,
                started=self.started,
                segments=self.until(state.global_step),
                files={},
                processes=launch.processes(),
                halvings=msgspec.to_builtins(self.pieces.halvings),
            ),
        )


class Together(TrainerCallback):
    """What every process of a run on several GPUs does, before the first one writes anything."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The trainer gave all the same seed, and so the same dropout masks for other rows. A
        # resumed run puts back what each had.
        torch.manual_seed(self.seed + 1_000_003 * launch.rank())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        launch.wait()  # each writes its own random state into the checkpoint


def _finite(value: float) -> float | None:
    """`value`, or None where it is no number: an fp16 scaler skips such a step and goes on."""
    return value if math.isfinite(value) else None
