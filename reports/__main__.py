"""`python -m reports`: compare arms and say which is better; list what exists."""

from typing import Annotated

from cyclopts import App, Parameter

from dataset_builder.command_line import data, run, talk

app = App(name="reports", help="Comparisons and variants for people.", version_flags=[])


@app.command
def compare(
    *arms: str,
    suite: str | None = None,
    name: str | None = None,
    margin: Annotated[list[str] | None, Parameter(consume_multiple=False, negative="")] = None,
) -> None:
    """Compare arms: the table here, answers side by side in report.html.

    Prints the path of the report.

    Parameters
    ----------
    arms
        Unique beginnings of runs, all seeds of each, or of imported answers. The first is the
        baseline.
    suite
        The suite, where the runs were evaluated on several.
    name
        What the comparison is called; without it, after its arms and scores.
    margin
        How much worse is still no worse, decided beforehand: `3` is three points of limits broken,
        `relevance_total=2` two nats. Without it, the suite's margins.
    """
    import re

    from dataset_builder.errors import InputError
    from evals.compare import compare as compare_arms
    from evals.imported import imported_directories
    from evals.margins import read_margins
    from finetune.run import find_runs
    from reports.findings import read_findings
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
    with talk.status("comparing"):
        others = imported_directories()
        found = [find_runs(arm, others) for arm in arms]
        directory = compare_arms(found, suite, name, margins)
        findings = read_findings(directory)
        report = directory / "report.html"
        write_report(findings, report)
    talk.print(comparison_report(findings))
    data.print(str(report), soft_wrap=True, markup=False)


@app.command(name="list")
def list_artifacts() -> None:
    """List the variants, runs, evaluations and comparisons that exist."""
    from reports.listing import listing

    data.print(listing())


if __name__ == "__main__":
    run(app)
