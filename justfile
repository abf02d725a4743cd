set quiet
set positional-arguments   # arguments reach the program as they were typed: never {{ }} for what a user wrote

python := ".venv/bin/python"

# List the recipes
[private]
default:
    {{ just_executable() }} --list --unsorted

# All of it, on the bundled forest and a real 135M-parameter model: CPU, offline, a few minutes
[group('pipeline')]
[no-exit-message]
demo: environment
    bash bench/demo.sh {{ python }}

# Build dataset variants: those named, or every one of the form `answers` that ships
[group('pipeline')]
[no-exit-message]
build-data *arguments: environment
    {{ python }} -m dataset_builder build "$@"

# Fine-tune on one variant under one preset
[group('pipeline')]
[no-exit-message]
train variant preset *options: environment
    {{ python }} -m finetune train "$@"

# Score the answers of runs to held-out prompts against their word limits
[group('pipeline')]
[no-exit-message]
eval +arguments: environment
    {{ python }} -m evals eval "$@"

# A suite as a task folder for lm-evaluation-harness
[group('pipeline')]
[no-exit-message]
export-task suite *options: environment
    {{ python }} -m evals export-task "$@"

# Compare arms; the first is the baseline
[group('pipeline')]
[no-exit-message]
compare +arguments: environment
    {{ python }} -m reports compare "$@"

# A whole study from one TOML file: builds, trains, evaluates what is missing, and compares all arms
[group('pipeline')]
[no-exit-message]
experiment +arguments: environment
    {{ python }} -m reports experiment "$@"

# Answers made elsewhere become runs: sampling reports, sample logs of lm-eval, rows of prompt and answer
[group('pipeline')]
[no-exit-message]
import-generations +arguments: environment
    {{ python }} -m evals import "$@"

# A comparison for other programs: CSV, Parquet, a Markdown table
[group('looking')]
[no-exit-message]
export +arguments: environment
    {{ python }} -m reports export "$@"

# What evaluations and comparisons say of a run, into its model card
[group('looking')]
[no-exit-message]
card +arguments: environment
    {{ python }} -m reports card "$@"

# One answer each, the base beside them, words counted
[group('looking')]
[no-exit-message]
ask +arguments: environment
    {{ python }} -m evals ask "$@"

# Write a run as one model: its adapter merged into the base it was trained on
[group('looking')]
[no-exit-message]
merge +arguments: environment
    {{ python }} -m finetune merge "$@"

# What the sources hold, before any choice: languages, ranks, lengths by rank, labels, duplicates
[group('looking')]
[no-exit-message]
audit *arguments: environment
    {{ python }} -m dataset_builder audit "$@"

# How two variants differ: recipe keys, rows, lengths, ranks, limits
[group('looking')]
[no-exit-message]
diff a b *options: environment
    {{ python }} -m dataset_builder diff "$@"

# Variants, runs, evaluations and comparisons that exist
[group('looking')]
[no-exit-message]
list *arguments: environment
    {{ python }} -m reports list "$@"

# Will this machine do it, and if not, what to type
[group('looking')]
[no-exit-message]
doctor *arguments: environment
    {{ python }} -m finetune doctor "$@"

# What needs no running: format, lint, types, the direction of imports
[group('development')]
check: environment
    {{ python }} -m ruff format --check .
    {{ python }} -m ruff check .
    {{ python }} -m mypy
    {{ python }} -m pytest -q tests/test_imports.py

# The tests: CPU, no network, under five minutes on two cores
[group('development')]
test *arguments: environment
    PYTHONDONTWRITEBYTECODE= {{ python }} -m pytest -n auto --dist worksteal "$@"

# Rewrite the golden files and docs/commands.md; read the diff before you commit it
[group('development')]
golden: environment
    {{ python }} -m tests.golden
    UPDATE_GOLDEN=1 {{ python }} -m pytest -q tests/test_docs.py -k reference

# Screenshots of a report to look at: desktop and phone, light and dark
[group('development')]
report-shots *arguments: environment
    {{ python }} -m bench.shots "$@"

# Format the code and mend what the linter can
[group('development')]
format: environment
    {{ python }} -m ruff format .
    {{ python }} -m ruff check --fix .

# Resolve pyproject.toml into requirements.lock
[group('development')]
lock:
    uv pip compile --quiet --upgrade --universal --no-emit-index-url --all-extras --group dev pyproject.toml -o requirements.lock

# The environment holds exactly what requirements.lock names; where it does already, this takes no time
[private]
environment:
    cmp -s requirements.lock .venv/installed.lock || {{ just_executable() }} install

# Bytecode is compiled here once, so that no command waits for it
[private]
install:
    uv venv --quiet --allow-existing --python ">=3.11" .venv
    VIRTUAL_ENV=.venv uv pip sync --quiet --compile-bytecode requirements.lock
    cp requirements.lock .venv/installed.lock

# Measure: data. Ratios of one run are what counts
[group('development')]
bench name *options: environment
    shift; {{ python }} -m bench.{{ name }} "$@"

# Attack a promise again and again, for so many `--hours`; without a name, how each of them stands
[group('development')]
[no-exit-message]
campaign *arguments: environment
    {{ python }} -m tests.campaigns "$@"
