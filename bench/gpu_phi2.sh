#!/usr/bin/env bash
# Phi-2 of random weights through its own preset on a GPU: 30 steps at the T4's setting (fp16), killed once and
# resumed, and 30 at what the card has (bf16). On a host set up by gpu_host.sh, with OUT for what comes back.
#   bench/gpu_phi2.sh VOCABULARY VARIANT
set -euo pipefail
vocabulary=$1 variant=$2
out=${OUT:-.}
scratch=${TMPDIR:-/tmp}
python3 bench/random_phi2.py "$scratch/phi2" "$vocabulary"

preset() { # NAME PRECISION
  sed -e "s#^model = .*#model = \"$scratch/phi2\"#" -e '/^revision/d' -e "s/^precision = .*/precision = \"$2\"/" \
    -e 's/^examples = .*/examples = 480/' -e 's/^checkpoint_steps = .*/checkpoint_steps = 10/' \
    -e 's/^steps = .*/steps = 10/' -e 's/^log_steps = .*/log_steps = 5/' \
    finetune/presets/phi2-oasst1-qlora.toml > "$scratch/$1.toml"
}
preset phi2-t4 fp16
preset phi2-bf16 bf16

echo "== T4 setting, killed after its first checkpoint"
setsid python3 -m finetune train "$variant" "$scratch/phi2-t4.toml" > "$out/t4-killed.log" 2>&1 &
pid=$!
for _ in $(seq 300); do
  if compgen -G "$ARTIFACTS/runs/phi2-t4-*/*.unfinished/checkpoints/step-10/complete.json" > /dev/null; then break; fi
  kill -0 $pid 2>/dev/null || break
  sleep 1
done
sleep 2
kill -9 $pid || true
wait $pid || true
tail -n 12 "$out/t4-killed.log"
echo "== resumed"
python3 -m finetune train "$variant" "$scratch/phi2-t4.toml" --resume 2>&1 | tee "$out/t4-resumed.log" | tail -n 25
echo "== bf16"
python3 -m finetune train "$variant" "$scratch/phi2-bf16.toml" 2>&1 | tee "$out/bf16.log" | tail -n 8
for run in "$ARTIFACTS"/runs/phi2-*/*/run.json; do
  cp "$run" "$out/$(basename "$(dirname "$(dirname "$run")")").json"
  cp "$(dirname "$run")/metrics.jsonl" "$out/$(basename "$(dirname "$(dirname "$run")")").metrics.jsonl"
  python3 - "$run" <<'PYTHON'
import json, sys

run = json.load(open(sys.argv[1]))
keys = ("preset_name", "steps", "tokens", "seconds", "preview_seconds", "peak_memory", "resumed", "train_loss", "validation_loss")
print({key: run[key] for key in keys}, "tokens/s", round(run["tokens"] / run["seconds"]))
PYTHON
done
