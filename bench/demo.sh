#!/usr/bin/env bash
# The whole path on the bundled forest, through the public commands, each shown before it runs.
# One seed and a handful of prompts: what it can conclude is little, and it says so.
set -euo pipefail
python=$1
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
# A folder of its own, so that its variants never stand for a user's of the same name.
export ARTIFACTS=${ARTIFACTS:-artifacts}/demo
printf 'export ARTIFACTS=%s   # for `just list` and `just ask` on what follows\n' "$ARTIFACTS" >&2

step() { printf '\n\033[1m$ just %s\033[0m\n' "$1" >&2; }

step "build-data full concise_best --source dataset_builder/sample/forest.trees.jsonl --held-out 0.3"
"$python" -m dataset_builder build full concise_best --source dataset_builder/sample/forest.trees.jsonl --held-out 0.3
step "train full smollm2-demo"
full=$("$python" -m finetune train full smollm2-demo)
step "train concise_best smollm2-demo"
concise=$("$python" -m finetune train concise_best smollm2-demo)
step "eval $full $concise --suite demo"
"$python" -m evals eval "$full" "$concise" --suite demo
step "compare $full $concise --suite demo --name demo"
"$python" -m reports compare "$full" "$concise" --suite demo --name demo
