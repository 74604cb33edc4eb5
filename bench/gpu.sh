#!/usr/bin/env bash
# On a machine with a GPU: bench/gpu.sh env | conformance | bench | modes | all [options of bench/gpu.py]
# Runs from the working tree with the python3 that has torch and triton; the compiled extension is not needed.
# Results go to $OUT (bench/out if it is not set). No stage takes more than a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
stage="${1:?env, conformance, bench, modes or all}"
shift
export OUT="${OUT:-bench/out}" PYTHONPATH=".:bench" PYTHONUNBUFFERED=1 CUBLAS_WORKSPACE_CONFIG=:4096:8
PYTHON="${PYTHON:-python3}"
mkdir -p "$OUT"

environment() {
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
    "$PYTHON" -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'
}

conformance() {
    # Each kernel is compiled by one core; pytest-xdist, where it is installed, gives them all one.
    local jobs=()
    "$PYTHON" -c 'import xdist' 2>/dev/null && jobs=(-n "${JOBS:-12}")
    "$PYTHON" -m pytest tests/gpu -q -o filterwarnings=default "${jobs[@]}" "$@" 2>&1 | tee "$OUT/conformance.log"
}

bench() { "$PYTHON" bench/gpu.py --out "$OUT/gpu.json" "$@" 2>&1 | tee "$OUT/bench.log"; }

modes() { "$PYTHON" bench/gpu_modes.py --out "$OUT/gpu_modes.json" "$@" 2>&1 | tee "$OUT/modes.log"; }

case "$stage" in
env) environment ;;
conformance) conformance "$@" ;;
bench) bench "$@" ;;
modes) modes "$@" ;;
all)
    environment
    conformance
    bench "$@"
    ;;
*)
    echo "unknown stage $stage; use env, conformance, bench, modes or all" >&2
    exit 2
    ;;
esac
