"""What is shown of a training, at a fixed width, to a terminal and to a log."""

import io

import msgspec
import pytest
from rich.console import Console

from dataset_builder.fit import Fit
from finetune.pair_previews import PairPreview, with_first_right
from finetune.previews import Preview
from finetune.progress import (
    Display,
    Step,
    fit_table,
    numbers,
    preview_line,
    preview_lines,
    preview_table,
    span,
)
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


def test_the_first_dropped_ids_are_shown_and_the_file_that_names_all():
    ids = [f"{n:08x}-0000-0000-0000-00000000000\x1b" for n in range(5)]
    shown = printed(fit_table(msgspec.structs.replace(FIT, dropped=ids), BUDGET), width=80)

    assert all(name[:8] in shown for name in ids[:3])
    assert ids[3][:8] not in shown
    assert "fit.json" in shown
    assert "\x1b" not in shown
    few = printed(fit_table(msgspec.structs.replace(FIT, dropped=["only"]), BUDGET))
    assert few.splitlines()[-1].rstrip() == "dropped: only"
    assert "dropped:" not in printed(fit_table(msgspec.structs.replace(FIT, dropped=[]), BUDGET))


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
        assert [task.fields["left"] for task in display.bar.tasks] == ["0 s left"]
        display.previewed([preview("second answer")])
        display.stepped(step(2), 2)
    shown = out.getvalue()

    assert "left" not in shown.rpartition("2/2")[2]  # what stays says nothing of a time to come
    assert "first answer" in shown
    assert "second answer" in shown
    assert "2/2" in shown
    assert "loss 2.500" in shown


def test_what_is_left_and_the_share_of_the_peak_are_shown():
    late = msgspec.structs.replace(step(1), peak_share=0.523, seconds_left=3725.0)
    made, out = console(terminal=False)
    Display(made, log_steps=1).stepped(late, 5)

    assert "  52.3% of peak  " in out.getvalue()
    assert out.getvalue().endswith("1 s, 1 h 2 min left\n")
    assert [span(n) for n in (0.4, 59.4, 59.6, 3599, 3600)] == [
        *("0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min")
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_redrawn_takes_a_line_for_each_answer(width: int):
    long = "What do bees make, and why do they, and who has it then? " * 3
    rows = [preview("word " * 300, prompt=long, limit=n % 2 * 50 or None) for n in range(6)]
    shown = printed(preview_table(rows), width=width).splitlines()

    assert len([line for line in shown if line.strip()]) == 3 + 6  # title, names, rule
    assert all(len(line) <= width for line in shown)
    full = msgspec.structs.replace(step(1999, 80_000_000_000), peak_share=0.523)
    assert len(numbers(full)) <= 80


def answered(*, limit: int | None, kept: bool | None, stopped: bool, drawn: bool) -> Preview:
    return Preview(
        step=30,
        prompt_id="h",
        prompt="What do bees make?",
        limit=limit,
        is_sampled=drawn,
        answer="Honey\nand \x1b[31mwax.",
        words=3,
        keeps_limit=kept,
        is_stopped=stopped,
        tokens=9,
        first_kept=20 if kept else None,
        first_stopped=10 if stopped else None,
    )


ANSWERED = [
    answered(limit=5, kept=True, stopped=True, drawn=False),
    answered(limit=5, kept=False, stopped=False, drawn=True),
    answered(limit=None, kept=None, stopped=False, drawn=False),
    answered(limit=None, kept=None, stopped=True, drawn=True),
]


def test_a_log_gets_every_answer_as_a_line():
    made, out = console(terminal=False, width=40)
    Display(made, log_steps=1).previewed(ANSWERED)
    lines = out.getvalue().splitlines()

    assert lines == preview_lines(ANSWERED)
    assert lines == [
        "previews at step 30: limit kept 1 of 1 (drawn: 0 of 1), stopped 1 of 2 (drawn: 1 of 2),"
        " words without a limit 3 (drawn: 3)",
        "  What do bees make? [3 words; limit 5 kept, kept first at step 20;"
        " stopped, stopped first at step 10] Honey and \\x1b[31mwax.",
        "  drawn [3 words; limit 5 broken; cut at 9 tokens] Honey and \\x1b[31mwax.",
        "  What do bees make? [3 words; cut at 9 tokens] Honey and \\x1b[31mwax.",
        "  drawn [3 words; stopped, stopped first at step 10] Honey and \\x1b[31mwax.",
    ]


def scored(name: str, step: int, chosen: float, rejected: float) -> PairPreview:
    return PairPreview(
        step=step,
        example_id=name,
        prompt="What do bees make, and why do they, and who has it then? " * 2,
        chosen="Honey\nand \x1b[31mwax.",
        rejected="Milk.",
        chosen_words=3,
        rejected_words=1,
        chosen_reward=chosen,
        rejected_reward=rejected,
        is_right=chosen > rejected,
    )


def test_scored_pairs_are_told_with_the_first_step_at_which_each_was_right():
    first = with_first_right([], [scored("a", 0, 0.5, -0.25), scored("b", 0, -1.5, 2.0)])
    rows = with_first_right(first, [scored("a", 9, -0.5, 0.25), scored("b", 9, 1.0, 0.5)])
    made, out = console(terminal=False, width=40)
    Display(made, log_steps=1).previewed(rows)

    assert [row.first_right for row in [*first, *rows]] == [0, None, 0, 9]
    assert out.getvalue().splitlines() == [
        "previews at step 9: right about 1 of 2 held-out pairs",
        "  What do bees make, and why do they, and… [wrong, right first at step 0]"
        " chosen -0.500 (3 words) Honey and \\x1b[31mwax. | rejected +0.250 (1 words) Milk.",
        "  What do bees make, and why do they, and… [right, right first at step 9]"
        " chosen +1.000 (3 words) Honey and \\x1b[31mwax. | rejected +0.500 (1 words) Milk.",
    ]


def test_a_terminal_shows_scored_pairs_a_line_each():
    rows = with_first_right([], [scored("a", 9, 0.5, -0.25), scored("b", 9, -1.5, 2.0)])
    made, out = console(terminal=True, width=80)
    with Display(made, log_steps=1) as display:
        display.previewed(rows)
    lines = [line.split() for line in out.getvalue().splitlines() if "What do bees" in line]

    assert "Scores at step 9, 1 of 2 right; beside yes or no, the first step" in out.getvalue()
    assert [line[-6:] for line in lines] == [
        ["yes", "9", "+0.500", "3", "-0.250", "1"],
        [lines[1][-6], "no", "-1.500", "3", "+2.000", "1"],
    ]


def test_the_counts_of_a_run_without_drawn_answers_say_nothing_of_them():
    assert preview_line(ANSWERED[::2]) == (
        "previews at step 30: limit kept 1 of 1, stopped 1 of 2, words without a limit 3"
    )


def test_the_table_says_since_when_a_prompt_does():
    lines = printed(preview_table(ANSWERED), width=120).splitlines()
    shown = [line for line in lines if line.strip()]

    assert "yes 20" in shown[3]
    assert "yes 10" in shown[3]
    assert shown[4].split()[:4] == ["drawn", "3", "no", "no"]
    assert shown[5].split()[4:8] == ["none", "3", "no", "Honey"]


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
