#!/usr/bin/env bash
# Several GPUs against one: Phi-2 of random weights under `phi2-gpus`, the same global batch, 20 steps each, with one
# checkpoint. On a host set up by gpu_host.sh with as many GPUs.
#   bench/gpu_several.sh VOCABULARY VARIANT GPUS [micro_batch of one GPU]
set -euo pipefail
vocabulary=$1 variant=$2 gpus=$3 micro=${4:-16}
out=${OUT:-.} scratch=${TMPDIR:-/tmp} python=${PYTHON:-python3}
[ -d "$scratch/phi2" ] || $python bench/random_phi2.py "$scratch/phi2" "$vocabulary"
sed -e "s#^model = .*#model = \"$scratch/phi2\"#" -e '/^revision/d' -e 's/^examples = .*/examples = 1280/' \
  -e 's/^checkpoint_steps = .*/checkpoint_steps = 10/' -e 's/^prompts = .*/prompts = 0/' -e 's/^dropout = .*/dropout = 0.0/' \
  -e "s/^micro_batch = .*/micro_batch = $micro/" finetune/presets/phi2-gpus.toml > "$scratch/several.toml"
# Phi's own residual dropout draws other masks on each GPU; without it the two runs are one up to rounding.
sed -i 's/"resid_pdrop": [0-9.]*/"resid_pdrop": 0.0/' "$scratch/phi2/config.json"
runs=$ARTIFACTS/runs
rm -rf "$runs"/several-* "$scratch/several"; mkdir -p "$scratch/several"
for n in 1 "$gpus"; do
  echo "== $n"
  $python -m finetune train "$variant" "$scratch/several.toml" --gpus "$n" > "$out/several-$n.log" 2>&1 || {
    tail -n 20 "$out/several-$n.log"; exit 1; }
  mv "$runs"/several-*/*-s0 "$scratch/several/$n"
done
$python - "$scratch/several" "$gpus" <<'PYTHON'
import json, statistics, sys
from pathlib import Path

rates = {}
for n in (1, int(sys.argv[2])):
    lines = (Path(sys.argv[1]) / str(n) / "metrics.jsonl").read_text().splitlines()
    rates[n] = statistics.median(json.loads(line)["tokens_per_second"] for line in lines[4:])
one, several = rates.values()
print(json.dumps({"tokens_per_second": rates, "ratio": round(several / one, 2)}))
PYTHON
$python -m bench.compare_runs "$scratch/several/1" "$scratch/several/$gpus"
