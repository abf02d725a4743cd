"""`python -m dataset_builder build`: variants of Open Assistant data."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from dataset_builder.command_line import data, run, talk
from dataset_builder.errors import InputError

app = App(name="dataset_builder", help="Exports become dataset variants.", version_flags=[])


@app.command
def build(
    *variants: str,
    source: Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)] = None,
    held_out: float = 0.1,
    text: str | None = None,
    fit: str | None = None,
    fit_template: str = "instruct",
    fit_length: int = 256,
    decontaminate: Annotated[
        list[Path] | None, Parameter(negative="", consume_multiple=True)
    ] = None,
    report_contamination: Annotated[bool, Parameter(negative="")] = False,
    messages: Annotated[bool, Parameter(negative="")] = False,
    push: str | None = None,
    expect: str | None = None,
    engine: Literal["local", "ray"] = "local",
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Build dataset variants: those named, or every one of the form `answers` that ships.

    Prints each variant's directory. `capped` is the one to begin with.

    Parameters
    ----------
    variants
        Names of recipes, or paths of TOML files.
    source
        An export: trees or messages as JSON Lines (plain, gzip or zstd), or Parquet. Takes
        several. Or a dataset of the Hub: OpenAssistant/oasst1, which is read without it,
        OpenAssistant/oasst2, any other of their schema as owner/name@commit.
    held_out
        Share of root prompts that no variant trains on.
    text
        Also write train.jsonl and val.jsonl as `{"text": …}` under this template: one that ships,
        or the chat template of a tokenizer, as its directory or OWNER/NAME@COMMIT of the Hub.
    fit
        Also report what a length would do to the rows under this tokenizer: a directory, a
        `tokenizer.json`, or a model of the Hub as OWNER/NAME@COMMIT.
    fit_template
        The template of that report.
    fit_length
        Its length, in tokens.
    decontaminate
        A prompt file: no row whose prompts hold one of its prompts is kept. Takes several. JSON
        Lines or a JSON array of strings or of objects with `prompt`, `instruction` or `turns`; an
        object whose `prompts` is one; plain text, a prompt a line; CSV or Parquet.
    report_contamination
        Count those rows, and keep them.
    messages
        Also write train.jsonl and val.jsonl as `{"messages": […]}`.
    push
        Upload what was built to this dataset repository of the Hub, OWNER/NAME; a new one is
        private.
    expect
        Fail unless the sources are this import, whole, by its published counts: oasst1 or oasst2.
    engine
        What reads the sources: this process, or the workers of the Ray cluster at RAY_ADDRESS; two
        of this machine where that is not set. The tables are the same.
    dry_run
        Say what would be built, and write nothing.
    """
    from dataset_builder import hub
    from dataset_builder.contamination import read_against
    from dataset_builder.expect import check_import, find_published
    from dataset_builder.export import Export, read_export
    from dataset_builder.fit_report import fit_table, fits, open_fitting
    from dataset_builder.formats import text_format, write_messages, write_texts
    from dataset_builder.forms import refuse_texts
    from dataset_builder.manifest import find_tables
    from dataset_builder.push import check_repository
    from dataset_builder.push import push as push_variants
    from dataset_builder.recipe import default_names, load_recipes, recipe_names
    from dataset_builder.summary import (
        prompt_files_told,
        refused_table,
        sources_table,
        variants_table,
    )
    from dataset_builder.template import find_template
    from dataset_builder.threads import make_tables, writing_tables
    from dataset_builder.variant import plan_variant, write_variant

    # What can be wrong with the arguments is said before any file is read.
    form = text_format(text) if text else None
    if expect:
        find_published(expect)
    fitting = find_template(fit_template)
    if fit_length < 1:
        raise InputError(f"--fit-length {fit_length} holds no token", "give 1 or more")
    tokenizer = open_fitting(fit, fitting) if fit else None
    recipes = load_recipes(variants or default_names())
    if form or messages or tokenizer:
        refuse_texts(recipes)
    if report_contamination and not decontaminate:
        raise InputError(
            "`--report-contamination` without a prompt file", "name one: `--decontaminate FILE`"
        )
    against = read_against(decontaminate or [], drop=not report_contamination)
    if push is not None:
        check_repository(push)
    for path in source or []:
        # `--source FILE full` reads `full` as a second file.
        if str(path) in recipe_names() and not path.exists():
            raise InputError(f"no file `{path}`", "name variants before `--source`")
    with talk.status("looking for the sources") as status:

        def read(path: Path, name: str | None = None) -> Export:
            status.update(f"reading {path.name}")
            return read_export(
                path, name, lambda rows: status.update(f"reading {path.name}: {rows:,} rows")
            )

        sources = hub.find_sources(source)
        if engine == "ray":
            from dataset_builder.engine import ray_workers, read_exports

            status.update("starting Ray")
            with ray_workers() as workers:
                exports, timing = read_exports(sources, workers, status.update)
        else:
            exports = iter([read(path, name) for path, name in sources])
        status.update("making threads")
        began = time.perf_counter()
        tables = make_tables(exports, held_out)
        alone = time.perf_counter() - began
        if expect:
            check_import(expect, tables)
        status.update("applying recipes")
        with nullcontext() if dry_run else writing_tables(tables):
            plans = [
                plan_variant(name, recipe, tables, against) for name, recipe in recipes.items()
            ]
            status.update("writing")
        if not dry_run:
            for plan in plans:
                write_variant(plan)
                if form:
                    write_texts(plan, form, plan.directory / f"text-{form.name}")
                if messages:
                    write_messages(plan, plan.directory / "messages")
            if push:
                status.update("uploading")
                address = push_variants([plan.directory for plan in plans], push)
    if engine == "ray":
        talk.print(timing.told(alone), markup=False)
    talk.print(sources_table(tables.sources))
    rejects = None if dry_run else find_tables(tables.sources.digest) / "rejects.parquet"
    talk.print(refused_table(tables.rejects, rejects))
    talk.print(prompt_files_told(against.files if against else ()))
    talk.print(variants_table([plan.manifest for plan in plans], talk.width))
    if tokenizer:
        found = {
            plan.manifest.name: fits(plan.train.to_pylist(), fitting, tokenizer, fit_length)
            for plan in plans
        }
        talk.print(fit_table(found, str(fit)))
    if form and form.note:
        talk.print(form.note, markup=False)
    if push and not dry_run:
        talk.print(f"Uploaded to {address}", markup=False)
    if dry_run:
        talk.print("Nothing was written. Without --dry-run these would be built:")
    for plan in plans:
        data.print(str(plan.directory), soft_wrap=True, markup=False)


@app.command
def audit(
    *,
    source: Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)] = None,
    held_out: float = 0.1,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """What the sources hold before any choice.

    Languages, tree states, ranks, lengths by rank, labels, duplicates. Writes nothing.

    Parameters
    ----------
    source
        An export: trees or messages as JSON Lines (plain, gzip or zstd), or Parquet. Takes
        several. Without it, OpenAssistant/oasst1 from the Hub.
    held_out
        Share of root prompts that no variant trains on.
    json
        Print the numbers as JSON.
    """
    from dataset_builder import hub
    from dataset_builder.audit import audit as audit_tables
    from dataset_builder.audit_tables import audit_report
    from dataset_builder.export import read_export
    from dataset_builder.figures import json_text
    from dataset_builder.summary import refused_table, sources_table
    from dataset_builder.threads import make_tables

    with talk.status("reading") as status:
        exports = [read_export(path, name) for path, name in hub.find_sources(source)]
        status.update("making threads")
        tables = make_tables(exports, held_out)
        status.update("counting")
        found = audit_tables(tables)
    if json:
        data.print(json_text(found), soft_wrap=True, markup=False)
        return
    talk.print(sources_table(tables.sources))
    talk.print(refused_table(tables.rejects, None))
    data.print(audit_report(found))


@app.command
def diff(
    a: str,
    b: str,
    *,
    html: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """How two built variants differ.

    Recipe keys, rows that only one has, and shifts in length, rank, language, turns and limits.

    Parameters
    ----------
    a
        A variant's name, or the directory of a build.
    b
        The variant that is compared with it.
    html
        Write a page, and print its path.
    json
        Print the difference as JSON.
    """
    from dataset_builder.diff import diff_variants
    from dataset_builder.diff_page import write_diff_page
    from dataset_builder.diff_tables import diff_report
    from dataset_builder.figures import json_text
    from dataset_builder.manifest import find_variant

    found = diff_variants(find_variant(a), find_variant(b))
    if json:
        data.print(json_text(found), soft_wrap=True, markup=False)
    elif not html:
        data.print(diff_report(found))
    if html:
        page = write_diff_page(found)
        (talk if json else data).print(str(page), soft_wrap=True, markup=False)


if __name__ == "__main__":
    run(app)
