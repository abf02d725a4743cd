"""Where the time of a training step goes on a GPU, by kernel.

    python -m bench.kernels MODEL [--rows VARIANT] [--batch 64] [--dropout 0.0] [--steps 3]

Profiles steady steps of treetune's own trainer on the rows of `bench.train`, and prints the kernels
that take the most, milliseconds a step. A CPU prints its operators.
"""

import argparse
from pathlib import Path
from typing import Any

from bench import train

FIRST = 6  # the step before the profiled ones


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--preset", default="phi2-oasst1-qlora")
    parser.add_argument("--rows", help="a built variant, in place of random rows")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=3)
    asked = parser.parse_args()
    setting = train.Setting(asked.model, asked.preset, asked.rows, 30.0)
    batch, profiler = asked.batch, Profiler(asked.steps)
    train.treetune(setting, 0.0, batch, batch, asked.dropout, clock=profiler)


class Profiler:
    """Stands in for the clock of `bench.train`: a callback that profiles, prints and stops."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def callback(self) -> Any:
        import torch
        from torch.profiler import ProfilerActivity, profile
        from transformers import TrainerCallback

        steps, on_gpu = self.steps, torch.cuda.is_available()
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu

        class Watching(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == FIRST:
                    self.profile = profile(activities=kinds)
                    self.profile.start()
                if state.global_step == FIRST + steps:
                    if on_gpu:
                        torch.cuda.synchronize()
                    self.profile.stop()
                    show(self.profile, steps)
                    control.should_training_stop = True

        return Watching()

    def result(self) -> dict[str, Any]:
        return {}


def show(profiled: Any, steps: int, most: int = 40) -> None:
    """The kernels, slowest first."""
    from torch.autograd import DeviceType

    rows = [
        (event.self_device_time_total, event.count, event.key)
        for event in profiled.key_averages()
        if event.device_type == DeviceType.CUDA
    ] or [(e.self_cpu_time_total, e.count, e.key) for e in profiled.key_averages()]
    rows.sort(reverse=True)
    total = sum(time for time, _, _ in rows)
    print(f"{total / 1000 / steps:8.2f} ms a step in all")
    show_gaps(profiled, steps)
    for time, count, key in rows[:most]:
        print(f"{time / 1000 / steps:8.2f} ms {count / steps:8.1f} times  {key[:150]}")


def show_gaps(profiled: Any, steps: int, least: float = 100.0) -> None:
    """For how long the device waited, and the waits of at least `least` microseconds."""
    from torch.autograd import DeviceType

    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA and not event.name.startswith("Optimizer.")
    )
    end, idle, waits = (spans[0][1] if spans else 0.0), 0.0, []
    for start, stop, name in spans[1:]:
        if start > end:
            idle += start - end
            if start - end >= least:
                waits.append((start - end, name))
        end = max(end, stop)
    print(f"{idle / 1000 / steps:8.2f} ms a step without any; before which kernel:")
    for wait, name in sorted(waits, reverse=True)[:20]:
        print(f"{wait / 1000:8.2f} ms  {name[:120]}")


if __name__ == "__main__":
    main()
