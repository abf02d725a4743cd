"""`python -m reports`: compare arms and say which is better; list what exists."""

from cyclopts import App

from dataset_builder.command_line import data, run, talk

app = App(name="reports", help="Comparisons and variants for people.", version_flags=[])


@app.command
def compare(*arms: str, suite: str | None = None, name: str | None = None) -> None:
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
    """
    import re

    from dataset_builder.errors import InputError
    from evals.compare import compare as compare_arms
    from evals.imported import imported_directories
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
    with talk.status("comparing"):
        others = imported_directories()
        directory = compare_arms([find_runs(arm, others) for arm in arms], suite, name)
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
