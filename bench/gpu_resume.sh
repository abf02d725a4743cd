#!/usr/bin/env bash
# Is a killed and resumed run the uninterrupted one, bit for bit, on this GPU? One preset trains three times: twice
# undisturbed, which says whether the card repeats itself at all, and once killed with SIGKILL and resumed at once,
# while what packed its batches may still be there. On a host set up by gpu_host.sh; some minutes.
#   bench/gpu_resume.sh VARIANT [PRESET] [--tiny]     PRESET: a name that ships, or a file
set -euo pipefail
variant=$1 preset=${2:-smollm2} tiny=${3:-}
out=${OUT:-.} scratch=${TMPDIR:-/tmp} python=${PYTHON:-python3}
[ -f "$preset" ] || preset=finetune/presets/$preset.toml
examples=640 every=5 kill_at=10
[ -z "$tiny" ] || { examples=24 every=2 kill_at=2; }
sed -e "s/^examples = .*/examples = $examples/" -e "s/^checkpoint_steps = .*/checkpoint_steps = $every/" \
  -e 's/^prompts = .*/prompts = 1/' -e 's/^steps = .*/steps = 10/' -e 's/^tokens = .*/tokens = 24/' \
  "$preset" > "$scratch/resume.toml"
runs=${ARTIFACTS:-artifacts}/runs aside=$scratch/resume-runs logs=$scratch/resume-logs
rm -rf "$aside" "$logs" "$runs"/resume-*; mkdir -p "$aside" "$logs"

train() { $python -m finetune train "$variant" "$scratch/resume.toml" "$@"; }
for name in first second; do
  echo "== undisturbed, the $name time"
  train > "$logs/$name.log" 2>&1 || { tail -n 20 "$logs/$name.log"; exit 1; }
  mv "$runs"/resume-*/*-s0 "$aside/$name"
done

echo "== killed after a checkpoint"
setsid $python -m finetune train "$variant" "$scratch/resume.toml" > "$logs/killed.log" 2>&1 &
pid=$!
for _ in $(seq 6000); do
  if compgen -G "$runs/resume-*/*.unfinished/checkpoints/step-$kill_at/complete.json" > /dev/null; then break; fi
  kill -0 $pid 2>/dev/null || { echo "it ended before it could be killed"; exit 1; }
  sleep 0.05
done
kill -9 $pid
wait $pid || true
echo "== resumed"
train --resume > "$logs/resumed.log" 2>&1 || { tail -n 20 "$logs/resumed.log"; exit 1; }
mv "$runs"/resume-*/*-s0 "$aside/resumed"
$python - "$aside/resumed/run.json" <<'PYTHON'
import json, sys

for each in json.load(open(sys.argv[1]))["segments"]:
    print(f"segment after step {each['after']} until {each['until']}: fast {each['is_fast']}, {each['device']}")
PYTHON
echo -n "two undisturbed runs: "; $python -m bench.compare_runs "$aside/first" "$aside/second"
echo -n "undisturbed and resumed: "; $python -m bench.compare_runs "$aside/first" "$aside/resumed"
