"""`python -m dataset_builder build`: variants of Open Assistant data."""

from pathlib import Path
from typing import Annotated

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
    expect: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Build dataset variants: those named, or every one that ships.

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
        Also write train.jsonl and val.jsonl as `{"text": …}` under this template.
    expect
        Fail unless the sources are this import, whole, by its published counts: oasst1 or oasst2.
    dry_run
        Say what would be built, and write nothing.
    """
    from dataset_builder import hub
    from dataset_builder.expect import check_import, find_published
    from dataset_builder.export import Export, read_export
    from dataset_builder.recipe import load_recipes, recipe_names
    from dataset_builder.summary import sources_table, variants_table
    from dataset_builder.template import find_template
    from dataset_builder.threads import make_tables, write_tables
    from dataset_builder.variant import plan_variant, write_texts, write_variant

    # What can be wrong with the arguments is said before any file is read.
    template = find_template(text) if text else None
    if expect:
        find_published(expect)
    recipes = load_recipes(variants or recipe_names())
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

        exports = [read(path, name) for path, name in hub.find_sources(source)]
        status.update("making threads")
        tables = make_tables(exports, held_out)
        if expect:
            check_import(expect, tables)
        status.update("applying recipes")
        plans = [plan_variant(name, recipe, tables) for name, recipe in recipes.items()]
        if not dry_run:
            status.update("writing")
            write_tables(tables)
            for plan in plans:
                write_variant(plan)
                if template:
                    write_texts(plan, template, plan.directory / f"text-{template.name}")
    talk.print(sources_table(tables.sources))
    talk.print(variants_table([plan.manifest for plan in plans]))
    if dry_run:
        talk.print("Nothing was written. Without --dry-run these would be built:")
    for plan in plans:
        data.print(str(plan.directory), soft_wrap=True, markup=False)


if __name__ == "__main__":
    run(app)
