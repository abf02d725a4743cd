#!/usr/bin/env bash
# Is a killed and resumed run the uninterrupted one, bit for bit, on this GPU? SmolLM2 trains three times: twice
# undisturbed, which says whether the card repeats itself at all, and once killed with SIGKILL and resumed.
# On a host set up by gpu_host.sh; some minutes.
#   bench/gpu_resume.sh VARIANT [PRESET]
set -euo pipefail
variant=$1 preset=${2:-smollm2}
out=${OUT:-.} scratch=${TMPDIR:-/tmp} python=${PYTHON:-python3}
sed -e 's/^examples = .*/examples = 640/' -e 's/^checkpoint_steps = .*/checkpoint_steps = 5/' \
  -e 's/^prompts = .*/prompts = 1/' -e 's/^steps = .*/steps = 10/' -e 's/^tokens = .*/tokens = 24/' \
  "finetune/presets/$preset.toml" > "$scratch/resume.toml"
runs=$ARTIFACTS/runs
aside=$scratch/resume-runs
rm -rf "$aside" "$runs"/resume-*; mkdir -p "$aside"

train() { $python -m finetune train "$variant" "$scratch/resume.toml" "$@"; }
for name in first second; do
  echo "== undisturbed, the $name time"
  train > "$out/resume-$name.log" 2>&1
  mv "$runs"/resume-*/*-s0 "$aside/$name"
done

echo "== killed after a checkpoint"
setsid $python -m finetune train "$variant" "$scratch/resume.toml" > "$out/resume-killed.log" 2>&1 &
pid=$!
for _ in $(seq 6000); do
  if compgen -G "$runs/resume-*/*.unfinished/checkpoints/step-10/complete.json" > /dev/null; then break; fi
  kill -0 $pid 2>/dev/null || { echo "it ended before it could be killed"; exit 1; }
  sleep 0.1
done
kill -9 $pid
wait $pid || true
echo "== resumed"
train --resume > "$out/resume-resumed.log" 2>&1
mv "$runs"/resume-*/*-s0 "$aside/resumed"

echo -n "two undisturbed runs: "; $python -m bench.compare_runs "$aside/first" "$aside/second"
echo -n "undisturbed and resumed: "; $python -m bench.compare_runs "$aside/first" "$aside/resumed"
