#!/usr/bin/env bash
# On a machine with a GPU: bench/gpu.sh env | conformance | sanitize | bench | radial | models | all [options of the stage]
# Runs from the working tree with the python3 that has torch and triton; the compiled extension is not needed.
# `models` needs the libraries whose models it runs (sevenn, nequip, mace-torch with e3nn 0.4.4), those that are there.
# Results go to $OUT (bench/out if it is not set). No stage takes more than a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
stage="${1:?env, conformance, sanitize, bench, radial, models or all}"
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

sanitize() {
    local tool
    for tool in memcheck racecheck; do
        compute-sanitizer --tool "$tool" --error-exitcode 1 "$PYTHON" -m pytest tests/gpu -q -o filterwarnings=default \
            -p no:cacheprovider -k "(mul-5 or mul-33) and f32" "$@" 2>&1 | tee "$OUT/$tool.log"
    done
}

models() { "$PYTHON" bench/gpu_models.py --out "$OUT/gpu-models.json" "$@" 2>&1 | tee "$OUT/models.log"; }

bench() { "$PYTHON" bench/gpu.py --out "$OUT/gpu.json" "$@" 2>&1 | tee "$OUT/bench.log"; }

radial() { "$PYTHON" bench/gpu_radial.py --out "$OUT/gpu-radial.json" "$@" 2>&1 | tee "$OUT/radial.log"; }

case "$stage" in
env) environment ;;
conformance) conformance "$@" ;;
sanitize) sanitize "$@" ;;
bench) bench "$@" ;;
models) models "$@" ;;
radial) radial "$@" ;;
all)
    environment
    conformance
    sanitize
    bench "$@"
    models
    ;;
*)
    echo "unknown stage $stage; use env, conformance, sanitize, bench, radial, models or all" >&2
    exit 2
    ;;
esac
