"""What is shown of a training, at a fixed width, to a terminal and to a log."""

import io

import pytest
from rich.console import Console

from dataset_builder.fit import Fit
from finetune.previews import Preview
from finetune.progress import Display, Step, fit_table, preview_table
from finetune.rows import Budget

FIT = Fit(
    rows=1000,
    kept=900,
    cut=3,
    shortened=2,
    end_lost=1,
    too_long=100,
    prompt_too_long=40,
    dropped=["a"] * 100,
    tokens=90_000,
    trained_tokens=50_000,
    concise_share_before=0.5,
    concise_share_after=0.5625,
    token_quantiles={"1": 300},
    length=256,
    overflow="drop",
    template="chatml",
)
BUDGET = Budget(
    steps=20,
    examples_seen=320,
    epochs=320 / 900,
    tokens=32_000,
    trained_tokens=18_000,
    tokens_by_step=[1600] * 20,
    trained_tokens_by_step=[900] * 20,
)


def step(n: int, memory: int | None = None) -> Step:
    return Step(
        step=n,
        loss=2.5,
        learning_rate=2e-4,
        grad_norm=1.0,
        tokens=1600,
        trained_tokens=900,
        tokens_per_second=1234.5,
        examples_seen=16 * n,
        memory=memory,
        seconds=1.3 * n,
    )


def preview(answer: str, prompt: str = "What do bees make?", limit: int | None = 5) -> Preview:
    return Preview(
        step=10,
        prompt_id="h",
        prompt=prompt,
        limit=limit,
        answer=answer,
        words=2,
        keeps_limit=None if limit is None else True,
        is_stopped=True,
        tokens=4,
    )


def console(*, terminal: bool, width: int = 100) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    made = Console(
        file=out, force_terminal=terminal, width=width, highlight=False, color_system=None
    )
    return made, out


def printed(renderable: object, width: int = 100) -> str:
    made, out = console(terminal=False, width=width)
    made.print(renderable)
    return out.getvalue()


def test_the_fit_names_what_was_kept_dropped_and_trained():
    shown = printed(fit_table(FIT, BUDGET), width=80)

    for text in ("1,000", "900", "100", "40", "0.500, 0.562", "320 (0.36)", "18,000, 32,000"):
        assert text in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_a_log_gets_a_line_every_few_steps_and_one_for_the_last():
    made, out = console(terminal=False)
    with Display(made, log_steps=3) as display:
        for n in range(1, 6):
            display.stepped(step(n), 5)
    lines = out.getvalue().splitlines()

    assert [line.split()[1] for line in lines] == ["3/5", "5/5"]
    assert lines[0] == "step 3/5  loss 2.500  rate 2.0e-04  1,234 tokens/s  4 s"


def test_the_memory_of_a_gpu_is_shown():
    made, out = console(terminal=False)
    Display(made, log_steps=1).stepped(step(1, memory=2_600_000_000), 5)

    assert "2.6 GB" in out.getvalue()


def test_a_terminal_gets_a_bar_with_the_numbers_and_the_newest_previews():
    made, out = console(terminal=True, width=120)
    with Display(made, log_steps=1) as display:
        display.fitted(FIT, BUDGET)
        display.previewed([preview("first answer")])
        display.stepped(step(1), 2)
        display.previewed([preview("second answer")])
        display.stepped(step(2), 2)
    shown = out.getvalue()

    assert "first answer" in shown
    assert "second answer" in shown
    assert "2/2" in shown
    assert "loss 2.500" in shown


@pytest.mark.parametrize("hostile", ["[/red]", "[link=x]y", "\x1b[31mred", "a\u202eb", "a\rb"])
def test_what_a_model_says_is_shown_and_never_obeyed(hostile: str):
    shown = printed(preview_table([preview(hostile, prompt=hostile)]))

    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\r" not in shown
    if hostile.startswith("["):
        assert hostile in shown


def test_a_line_from_a_path_or_a_model_is_no_markup():
    made, out = console(terminal=False)
    Display(made, log_steps=1).say("loading [bold]/a/[b]/c\x1b[0m")

    assert out.getvalue() == "loading [bold]/a/[b]/c\\x1b[0m\n"
