#!/usr/bin/env bash
# Several GPUs against one: Phi-2 of random weights under `phi2-gpus`, the same global batch, 20 steps each, with one
# checkpoint. On a host set up by gpu_host.sh with as many GPUs.
#   bench/gpu_several.sh MODEL VARIANT GPUS [--tiny]     MODEL: a folder that bench/random_phi2.py wrote
set -euo pipefail
model=$1 variant=$2 gpus=$3 tiny=${4:-}
scratch=${TMPDIR:-/tmp} python=${PYTHON:-python3}
micro=16 batch=64 examples=1280 every=10 skip=4
[ -z "$tiny" ] || { micro=1 batch=4 examples=16 every=2 skip=1; }
mkdir -p "$scratch/several"
# Phi's own residual dropout draws other masks on each GPU; without it the two runs are one up to rounding.
rm -rf "$scratch/several/model"; mkdir "$scratch/several/model"
ln -s "$model"/* "$scratch/several/model/"
rm "$scratch/several/model/config.json"
sed -e 's/"resid_pdrop": [0-9.]*/"resid_pdrop": 0.0/' "$model/config.json" > "$scratch/several/model/config.json"
sed -e "s#^model = .*#model = \"$scratch/several/model\"#" -e '/^revision/d' -e "s/^examples = .*/examples = $examples/" \
  -e "s/^checkpoint_steps = .*/checkpoint_steps = $every/" -e 's/^prompts = .*/prompts = 0/' \
  -e 's/^dropout = .*/dropout = 0.0/' -e "s/^micro_batch = .*/micro_batch = $micro/" -e "s/^batch = .*/batch = $batch/" \
  finetune/presets/phi2-gpus.toml > "$scratch/several/several.toml"
[ -z "$tiny" ] || sed -i 's/^precision = .*/precision = "fp32"/' "$scratch/several/several.toml"
runs=${ARTIFACTS:-artifacts}/runs
rm -rf "$runs"/several-* "$scratch/several/1" "$scratch/several/$gpus"
for n in 1 "$gpus"; do
  echo "== $n"
  one=(); [ "$n" -gt 1 ] || [ -n "$tiny" ] || one=(env CUDA_VISIBLE_DEVICES=0)
  "${one[@]}" $python -m finetune train "$variant" "$scratch/several/several.toml" --gpus "$n" \
    > "$scratch/several/$n.log" 2>&1 || { tail -n 20 "$scratch/several/$n.log"; exit 1; }
  mv "$runs"/several-*/*-s0 "$scratch/several/$n"
done
$python - "$scratch/several" "$gpus" "$skip" <<'PYTHON'
import json, statistics, sys
from pathlib import Path

rates = {}
for n in (1, int(sys.argv[2])):
    lines = (Path(sys.argv[1]) / str(n) / "metrics.jsonl").read_text().splitlines()
    rates[n] = statistics.median(json.loads(line)["tokens_per_second"] for line in lines[int(sys.argv[3]) :])
one, several = rates.values()
print(json.dumps({"tokens_per_second": rates, "ratio": round(several / one, 2)}))
PYTHON
$python -m bench.compare_runs "$scratch/several/1" "$scratch/several/$gpus"
