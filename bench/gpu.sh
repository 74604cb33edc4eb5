#!/usr/bin/env bash
# On a machine with a GPU: bench/gpu.sh STAGE [options of the stage's script]
#   env           what the machine is
#   conformance   tests/gpu, against the float64 reference
#   sanitize      small cases under compute-sanitizer
#   bench         sweeps and steps of layers; modes, radial, symmetric: other layers, each against its rival
#   peers         convolutions against cuEquivariance and OpenEquivariance, where PYTHONPATH has them
#   tune          CUDA C++ under many layouts, beside Triton (tune_cuda.py)
#   models        whole potentials; needs the libraries whose models they are (sevenn, nequip, mace-torch with e3nn 0.4.4)
#   all           all of them
#   first, second what matters most of it in 440 and 320 seconds, for a machine that is lent for minutes: is it right, and how
#                 fast are the sweeps; then peers and models. A part that takes too long, or fails, does not stop the next
# Runs from the working tree with the python3 that has torch and triton; the compiled extension is not needed.
# Results go to $OUT (bench/out if it is not set). No stage takes more than a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
stages="env, conformance, sanitize, bench, modes, radial, symmetric, peers, tune, models, all, first or second"
stage="${1:?$stages}"
shift
export OUT="${OUT:-bench/out}" PYTHONPATH=".:bench:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
export CUBLAS_WORKSPACE_CONFIG=:4096:8
PYTHON="${PYTHON:-python3}"
mkdir -p "$OUT"

device() { "$PYTHON" -c "import gpu_run; gpu_run.need_device()"; }

environment() {
    device
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
    "$PYTHON" -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'
}

conformance() {
    # Each kernel is compiled by one core; pytest-xdist, where it is installed, gives them all one. Every test is named as it
    # ends: time may be short.
    local jobs=()
    device
    "$PYTHON" -c 'import xdist' 2>/dev/null && jobs=(-n "${JOBS:-12}")
    "$PYTHON" -m pytest tests/gpu -v --tb=short -o filterwarnings=default "${jobs[@]}" "$@" 2>&1 | tee "$OUT/conformance.log"
}

sanitize() {
    local tool
    device
    for tool in memcheck racecheck; do
        compute-sanitizer --tool "$tool" --error-exitcode 1 "$PYTHON" -m pytest tests/gpu -q -o filterwarnings=default \
            -p no:cacheprovider -k "(mul-5 or mul-33) and f32" "$@" 2>&1 | tee "$OUT/$tool.log"
    done
}

measure() { "$PYTHON" "bench/$1.py" --out "$OUT/$1.json" "${@:2}" 2>&1 | tee "$OUT/$1.log"; }

# part SECONDS STAGE [options]
part() {
    local limit="$1" status=0
    shift
    echo "== $*: at most $limit s"
    timeout -k 5 "$limit" bash bench/gpu.sh "$@" || status=$?
    echo "== $*: ended with $status after $SECONDS s in all"
}

# The files of tests/gpu side by side, each with its log: most of the time is compilation.
apart() {
    local file name
    for file in tests/gpu/test_*.py; do
        name="$(basename "$file" .py)"
        timeout -k 5 "$1" "$PYTHON" -m pytest "$file" -v --tb=short -o filterwarnings=default -p no:cacheprovider "${@:2}" \
            >"$OUT/$name.log" 2>&1 &
    done
    wait
    tail -qn 1 "$OUT"/test_*.log
    grep -h "^FAILED\|^ERROR" "$OUT"/test_*.log || true
}

case "$stage" in
first)
    environment
    apart 170 -k "not triton" # CUDA C++ compiles in a tenth of Triton's time
    part 60 tune --no-triton --cases mace-conv nequip-conv
    part 90 bench --edges 100000 1000000 --no-steps
    part 40 symmetric
    part 60 sanitize --deselect tests/gpu/test_steps.py
    ;;
second)
    environment
    part 70 peers --edges 100000
    part 130 models
    part 40 modes
    part 50 radial --edges 100000
    ;;
env) environment ;;
conformance) conformance "$@" ;;
sanitize) sanitize "$@" ;;
bench) measure gpu "$@" ;;
tune) measure tune_cuda "$@" ;;
modes | radial | symmetric | peers | models) measure "gpu_$stage" "$@" ;;
all)
    environment
    conformance
    sanitize
    measure gpu
    for suite in modes radial symmetric peers models; do measure "gpu_$suite"; done
    ;;
*)
    echo "unknown stage $stage; use $stages" >&2
    exit 2
    ;;
esac
