"""`python -m reports`: compare arms and say which is better; list what exists."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from dataset_builder.command_line import data, run, talk
from dataset_builder.printable import printable

app = App(name="reports", help="Comparisons and variants for people.", version_flags=[])


@app.command
def compare(
    *arms: str,
    suite: str | None = None,
    name: str | None = None,
    margin: Annotated[list[str] | None, Parameter(consume_multiple=False, negative="")] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compare arms: the table here, answers side by side in report.html.

    Prints the path of the report. Tables for other programs are written by `just export`.

    Parameters
    ----------
    arms
        Unique beginnings of runs, all seeds of each, or of imported answers. The first is the
        baseline.
    suite
        The suite, where the runs were evaluated on several.
    name
        What the comparison is called; without it, after its arms and scores. One of that name is
        replaced.
    margin
        How much worse is still no worse, decided beforehand: `3` is three points of limits broken,
        `relevance_total=2` two nats. Without it, the suite's margins.
    json
        Print the whole comparison as JSON, and nothing else; docs/comparison.schema.json says what
        its fields mean.
    """
    import re

    from dataset_builder.errors import InputError
    from evals.compare import compare as compare_arms
    from evals.imported import imported_directories
    from evals.margins import read_margins
    from finetune.run import find_runs
    from reports.blocks import Blocks
    from reports.findings import Findings, read_findings
    from reports.html import write_report
    from reports.terminal import comparison_report

    if len(arms) < 2:
        raise InputError(
            f"wanted: two arms or more, found {len(arms) or 'none'}",
            "`just list` shows the runs that exist",
        )
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(
            f"--name `{name}` is no name for a folder", "use letters, digits, `-`, `_` and `.`"
        )
    margins = read_margins(margin or [])
    found: list[Findings] = []
    pages: list[Blocks] = []

    def write_page(made: Path) -> None:
        found.append(read_findings(made))
        pages.append(write_report(found[0], made / "report.html"))

    with talk.status("comparing"):
        others = imported_directories()
        found_runs = [find_runs(arm, others) for arm in arms]
        directory = compare_arms(found_runs, suite, name, margins, write_page)
    findings = replace(found[0], directory=directory)
    if json:
        from dataset_builder.figures import json_text
        from reports.machine import comparison_record

        print(json_text(comparison_record(findings)))
        return
    talk.print(comparison_report(findings))
    if pages[0].left_out:
        talk.print(
            f"report.html would grow too large: the texts of {pages[0].left_out:,} of "
            f"{pages[0].answers:,} answers are left out; they stand in each run's "
            "generations.parquet",
            markup=False,
        )
    data.print(str(directory / "report.html"), soft_wrap=True, markup=False)


@app.command
def experiment(
    study: str,
    *,
    folder: Annotated[Path | None, Parameter(name="--data")] = None,
    only: Literal["build", "train", "compare"] | None = None,
    jobs: int = 1,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Do a whole study: variants, runs of every seed, evaluations, one comparison of all.

    Builds, trains and evaluates what is not there yet, so that the same command goes on after any
    interruption. A cell that fails does not end the others. Prints the path of each report.

    Parameters
    ----------
    study
        A study that ships, or the path of a TOML file.
    folder
        Where its sources and prompt files lie; without it they are looked for beside the TOML file.
    only
        One stage alone: `build` the variants; `train` and evaluate, for which sources, Polars and
        DuckDB need not be there; `compare`.
    jobs
        Processes that share each GPU: a small model leaves it idle most of the time.
    dry_run
        Say what would be done and what it would take, and stop.
    """
    import sys

    from dataset_builder.errors import InputError
    from reports import experiment as stages
    from reports.cells import Grid
    from reports.study import load_study

    if jobs < 1:
        raise InputError(f"--jobs {jobs} does nothing", "give 1 or more")
    located = load_study(study, folder)
    if dry_run:
        from reports.forecast import cells_table

        data.print(cells_table(Grid(located), jobs))
        return

    def say(line: str) -> None:
        talk.print(line, soft_wrap=True, markup=False)

    if only in (None, "build"):
        stages.build(located, say)
    is_whole = stages.train(located, jobs, say) if only in (None, "train") else True
    if only in (None, "compare"):
        for directory in stages.compare(located, say):
            data.print(str(directory / "report.html"), soft_wrap=True, markup=False)
    if not is_whole:
        sys.exit(1)


@app.command
def export(
    comparison: str, file: Path, *, table: Literal["differences", "answers"] = "differences"
) -> None:
    """Write a comparison for other programs, in the form that the file's ending names.

    `.csv` guards text that a spreadsheet would take for a formula with an apostrophe; `.parquet`
    has it as it was; `.md` is a table for a paper or a pull request. A file of that name is
    replaced.

    Parameters
    ----------
    comparison
        Its name, a unique beginning of one, or its directory.
    file
        What to write: `.csv`, `.parquet` or `.md`.
    table
        `differences`, a row per arm, metric and limit with its interval; or `answers`, a row per
        answer with its words and its text.
    """
    from reports.export import write_export
    from reports.findings import find_comparison, read_findings

    write_export(read_findings(find_comparison(comparison)), table, file)
    talk.print(f"written: {printable(str(file))}", soft_wrap=True, markup=False)


@app.command
def card(*runs: str, file: Path | None = None) -> None:
    """Write what evaluations and comparisons say of a run into its model card.

    Tables for readers, and the Hub's model index. Only what an earlier call wrote is replaced: the
    card's other words stay. Prints the path of each card.

    Parameters
    ----------
    runs
        Unique beginnings of runs, all seeds of each.
    file
        The card, where it is not the adapter's: that of a merged model, of one run.
    """
    from dataset_builder.errors import InputError
    from finetune.run import find_runs, load_run
    from reports.card import refresh_card

    directories = [directory for name in runs for directory in find_runs(name)]
    if not directories:
        raise InputError("no run is named", "`just list` shows the runs that exist")
    if file is not None and len(directories) > 1:
        raise InputError(
            f"--file is one card, of one run, and {len(directories)} were named",
            "name a run with its seed",
        )
    for directory in directories:
        path = refresh_card(directory, load_run(directory), file)
        data.print(str(path), soft_wrap=True, markup=False)


@app.command(name="list")
def list_artifacts() -> None:
    """List the variants, runs, evaluations and comparisons that exist."""
    from reports.listing import listing

    data.print(listing())


if __name__ == "__main__":
    run(app)
