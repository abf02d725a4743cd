#!/usr/bin/env bash
# Entry 1 of docs/experiments.md on one GPU or several: `full`, `capped` and `concise_best`, three seeds each, under
# `smollm2`, then the suite `word_limit` with a file of further prompts. On a host set up by gpu_host.sh; OUT gets
# what comes back, and `done` last.
#   bench/gpu_experiment.sh PROMPTS
set -euo pipefail
export prompts=$1 out=${OUT:-.}
gpus=$(python3 -c 'import torch; print(max(1, torch.cuda.device_count()))')
mkdir -p "$out"

timed() { # LABEL COMMAND...
  local label=$1 start=$SECONDS
  shift
  "$@" > "$out/$label.log" 2>&1 || echo "$label failed with $?" | tee -a "$out/times.txt"
  echo "$label $((SECONDS - start)) s" | tee -a "$out/times.txt"
}
train() { timed "train-$1-$2" python3 -m finetune train "$1" smollm2 --seed "$2"; }
answer() { timed "eval-$1-$2" python3 -m evals eval "$ARTIFACTS"/runs/smollm2-*/"$1"-*-s"$2" --prompts "$prompts" --batch 400; }
on() { # GPU COMMAND...
  export CUDA_VISIBLE_DEVICES=$1 OMP_NUM_THREADS=2
  "${@:2}"
}
export -f timed train answer on

# One run, and with its evaluation the base model's, while the others train: the base then answers once.
on 0 train full 0
on 0 answer full 0 &
first=$!
others=(capped\ 0 concise_best\ 0 full\ 1 capped\ 1 concise_best\ 1 full\ 2 capped\ 2 concise_best\ 2)
# Each run alone leaves a card idle most of the time: four share one.
spread() { # FUNCTION
  for n in "${!others[@]}"; do echo "$(((n + 1) % gpus)) $1 ${others[n]}"; done |
    xargs -P "${JOBS:-$((4 * gpus))}" -L 1 bash -c 'on $0 $1 $2 $3'
}
spread train
wait $first
spread answer
tar -C "$ARTIFACTS" --exclude='adapter_model.safetensors' --exclude='tokenizer*' --exclude=model --exclude='*.unfinished' \
  -czf "$out/results.tgz" runs bases
touch "$out/done"
