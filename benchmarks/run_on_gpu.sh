#!/usr/bin/env bash
# Everything that needs a GPU, in one command: build, tests, memory checker, benchmarks, a search
# and a retraining on real data. Logs and results go to ${OUT:-./gpu-results}; a step that fails
# does not stop the next ones, and the exit code is the number of failed steps.
#
#   benchmarks/run_on_gpu.sh [DATASET.npz]
#
#   PYTHON             interpreter to use (python3)
#   OUT                folder for logs and results (./gpu-results)
#   STEPS              steps to run, of: build tests sanitizer benchmarks search-step
#                      search-step-bf16 search retrain (all)
#   STEP_SECONDS       most seconds a step may take (540)
#   SEARCH_ARGUMENTS   more arguments of the search (--epochs 2 --derive darts: two epochs
#                      bring no weight above the threshold)
#   RETRAIN_ARGUMENTS  more arguments of the retraining (--epochs 2 --channels 16 --layers 8)
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONUNBUFFERED=1
PYTHON=${PYTHON:-python3}
OUT=${OUT:-./gpu-results}
STEPS=${STEPS:-build tests sanitizer benchmarks search-step search-step-bf16 search retrain}
STEP_SECONDS=${STEP_SECONDS:-540}
dataset=${1:-cifar10-lt-mini}
runs=$(mktemp -d)
mkdir -p "$OUT"
failed=0

step() {
    local name=$1
    shift
    case " $STEPS " in *" $name "*) ;; *) return ;; esac
    echo "== $name: $*"
    local start=$SECONDS
    timeout "$STEP_SECONDS" "$@" 2>&1 | tee "$OUT/$name.log"
    local code=${PIPESTATUS[0]}
    echo "== $name: exit code $code after $((SECONDS - start)) s" | tee -a "$OUT/steps.log"
    [ "$code" -eq 0 ] || failed=$((failed + 1))
}

build() {
    "$PYTHON" -m pip install --quiet --editable . --no-build-isolation --no-deps ||
        "$PYTHON" setup.py build_ext --inplace
    "$PYTHON" -m ssfnas.env
}

sanitizer() {
    local checker
    checker=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ -z "$checker" ]; then
        echo "compute-sanitizer is not installed: left out"
        return 0
    fi
    local tests=(-m pytest tests/kernels tests/native/test_cuda_stencils.py -m gpu -p no:cacheprovider)
    tests+=(-k "any_number_of_inputs or large_mean or low_rank or memory_may_begin or nan_and_infinity")
    # PyTorch's cache of memory would hide reads beyond the end of a tensor.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$checker" --tool memcheck --error-exitcode 9 "$PYTHON" "${tests[@]}" &&
        "$checker" --tool racecheck --error-exitcode 9 "$PYTHON" "${tests[@]}"
}

export -f build sanitizer
export PYTHON
{
    date -u
    nvidia-smi
    "$PYTHON" -c "import torch; print('torch', torch.__version__)"
} >"$OUT/machine.log" 2>&1

step build bash -c build
step tests "$PYTHON" -m pytest tests -m gpu
step sanitizer bash -c sanitizer
step benchmarks "$PYTHON" -m benchmarks
step search-step "$PYTHON" -m benchmarks.search_step --profile --compile-seconds 150
step search-step-bf16 "$PYTHON" -m benchmarks.search_step --precision bf16 --profile --compile-seconds 150
# shellcheck disable=SC2086
step search "$PYTHON" -m ssfnas.search --preset ssfnas --dataset "$dataset" \
    --imbalance-ratio 100 --device cuda --out "$runs/search" ${SEARCH_ARGUMENTS:---epochs 2 --derive darts}
# shellcheck disable=SC2086
step retrain "$PYTHON" -m ssfnas.retrain --genotype "$runs/search" --dataset "$dataset" \
    --imbalance-ratio 100 --device cuda --out "$runs/retrain" \
    ${RETRAIN_ARGUMENTS:---epochs 2 --channels 16 --layers 8}

mkdir -p "$OUT/results"
cp benchmarks/results/*.md "$OUT/results/" 2>/dev/null
for run in search retrain; do
    # Checkpoints are large and of no use elsewhere.
    [ -d "$runs/$run" ] && tar -C "$runs" --exclude=checkpoints -czf "$OUT/$run.tar.gz" "$run"
done
rm -rf "$runs"
echo "== $failed step(s) failed; logs and results are in $OUT"
exit "$failed"
