#!/usr/bin/env bash
# A study on a bare GPU host: its cells are trained and evaluated there, and compared at home.
#
#   bench/gpu_study.sh pack STUDY DATA DIR [RESULTS ...]       here: what the host needs, into DIR
#   bench/gpu_study.sh run STUDY DIR                           there: at most LIMIT seconds (555); results.tgz.00 ... into OUT
#   bench/gpu_study.sh home RESULTS ...                        here: into the artefacts
#
# Once, here, into folders that git ignores (bench/gpu_host.sh says what they are):
#
#   bench/gpu_host.sh wheels host/base
#   bench/gpu_host.sh model 1 host/first && bench/gpu_host.sh model 2 host/second     # 47 MB each
#   just experiment STUDY --data DATA --only build && bench/gpu_study.sh pack STUDY DATA host/study
#
# There, calls of at most ten minutes on one machine, while it stays warm:
#
#   1. carry host/base host/first     the model's first half, put down: a minute
#        source bench/gpu_host.sh setup host/base host/first
#   2. carry host/base host/second    its second half; with host/study (9 MB for oasst) where both may be carried, call 3 too
#        source bench/gpu_host.sh setup host/base host/second
#   3. carry host/base host/study     as much as time allows; the same again until it says that all cells are there
#        source bench/gpu_host.sh setup host/base && bench/gpu_study.sh run STUDY host/study
#
# Between calls the machine's disk keeps everything, runs that a call ended in the middle of too; results.tgz.* hold all that
# is finished, of earlier calls as well, but the adapters (39 MB each for SmolLM2). A machine that is given back takes its
# disk with it. On a fresh one, what came back is packed and carried too, and no finished cell is done again:
#
#   bench/gpu_study.sh pack STUDY DATA host/study results.tgz.*
#
# There a run without its adapter cannot be evaluated, nor another go on with it. KEEP="capped" brings home the adapters of
# the arms it names, a file each (adapter-capped-s0.tgz), to be packed likewise, one a call.
#
# JOBS (4) processes share each GPU: SmolLM2 alone leaves it idle most of the time. At home, in the end:
#
#   bench/gpu_study.sh home results.tgz.* && just experiment STUDY --data DATA --only compare
set -uo pipefail
python=${PYTHON:-python3}

pack() { # STUDY DATA DIR [RESULTS ...]
  local study=$1 data=$2 dir=$3 each
  shift 3
  rm -rf "$dir"; mkdir -p "$dir/artifacts"
  ${PYTHON:-.venv/bin/python} -m bench.study_files pack "$study" "$data" "$dir" || return
  [ $# = 0 ] || cat "$@" | tar -C "$dir/artifacts" --skip-old-files --ignore-zeros -xzf -
  du -sh "$dir"
}

run() { # STUDY DIR
  local study=$1 dir=$2 out=${OUT:-results} code=0 usage="" each name adapter
  mkdir -p "$out"
  export ARTIFACTS=${STUDY_ARTIFACTS:-${TMPDIR:-/tmp}/study-artifacts} PYTHONUNBUFFERED=1 COLUMNS=120
  mkdir -p "$ARTIFACTS"
  cp -r --update=none "$dir/artifacts/." "$ARTIFACTS/" 2> /dev/null || cp -rn "$dir/artifacts/." "$ARTIFACTS/"
  cp "$dir"/artifacts/experiments/*/built.json "$ARTIFACTS"/experiments/*/   # the study may have grown
  "$python" -m bench.study_files ready "$study" "$dir/data" | tee "$out/study.txt" || return
  if command -v nvidia-smi > /dev/null; then
    nvidia-smi --query-gpu=timestamp,index,utilization.gpu,memory.used --format=csv,noheader -l 2 > "$out/usage.csv" &
    usage=$!
  fi
  # 25 s stay for the tar; what is ended in the middle goes on in the next call.
  timeout --foreground --signal=INT --kill-after=10 $((${LIMIT:-555} - SECONDS - 25)) \
    "$python" -m reports experiment "$study" --data "$dir/data" --only train --jobs "${JOBS:-4}" \
    2>&1 | tee -a "$out/study.txt" || code=$?
  [ -z "$usage" ] || kill "$usage"
  echo "exit $code after $SECONDS s" | tee -a "$out/study.txt"
  (cd "$ARTIFACTS" && tar --exclude=adapter_model.safetensors --exclude='tokenizer*' --exclude=./bases/*/model \
    --exclude='*.unfinished' --exclude='.building-*' --exclude='.*.partial*' -czf - ./runs ./bases ./experiments) |
    split --bytes 8M --numeric-suffixes - "$out/results.tgz."   # what comes back may be bounded, a file
  for each in ${KEEP:-}; do
    "$python" -m bench.study_files adapters "$study" "$dir/data" "$each" |
      while read -r name adapter; do tar -C "$ARTIFACTS" -czf "$out/adapter-$name.tgz" "$adapter"; done
  done
  touch "$out/done"
}

home() { cat "$@" | tar -C "${ARTIFACTS:-artifacts}" -xzf -; }

"$@"
