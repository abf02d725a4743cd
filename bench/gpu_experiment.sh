#!/usr/bin/env bash
# Entry 1 of docs/experiments.md on a GPU: `full`, `capped` and `concise_best`, three seeds each, under `smollm2`, then
# the suite `word_limit` with a file of further prompts. On a host set up by gpu_host.sh; OUT gets what comes back.
#   bench/gpu_experiment.sh train              every run, several at a time: one alone leaves the card idle
#   bench/gpu_experiment.sh eval PROMPTS       every answer and score
set -euo pipefail
out=${OUT:-.}
variants=(full capped concise_best)
seeds=(0 1 2)

timed() { # LABEL COMMAND...
  local label=$1 start=$SECONDS
  shift
  "$@" > "$out/$label.log" 2>&1 || echo "$label failed with $?"
  echo "$label $((SECONDS - start)) s" | tee -a "$out/times.txt"
}
export -f timed
export out

case $1 in
  train)
    python3 -m finetune train full smollm2 --dry-run > /dev/null  # the base is made ready once, not by all at once
    for seed in "${seeds[@]}"; do for variant in "${variants[@]}"; do echo "$variant $seed"; done; done |
      xargs -P "${JOBS:-5}" -L 1 bash -c 'timed "train-$0-$1" python3 -m finetune train $0 smollm2 --seed $1'
    for variant in "${variants[@]}"; do tail -n 3 "$out/train-$variant-0.log"; done
    ;;
  eval)
    prompts=$2
    # The base answers first, once; the others then find its answers there.
    timed eval-base python3 -m evals eval "$ARTIFACTS"/runs/smollm2-*/full-*-s0 --prompts "$prompts"
    printf '%s\n' "${variants[@]}" |
      xargs -P "${JOBS:-3}" -L 1 bash -c 'timed "eval-$0" python3 -m evals eval $0 --prompts '"$prompts"
    ;;
esac
tar -C "$ARTIFACTS" --exclude='adapter_model.safetensors' --exclude='tokenizer*' --exclude=model --exclude='*.unfinished' \
  -czf "$out/results.tgz" runs bases
ls -la "$out"
