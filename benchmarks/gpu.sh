#!/usr/bin/env bash
# What a computer with an NVIDIA GPU can tell, in under nine minutes: the kernels' tests on the device, their times, the
# chain's latency, a profile.
#
#     benchmarks/gpu.sh [FOLDER]        # results, also packed as FOLDER.tgz; gpu-results if not given
#
# PYTHON is the interpreter (.venv/bin/python if there is one). It needs torch with CUDA, what tests need, and g++; and nvcc
# if the kernels are not built yet. A step that fails does not stop the others; summary.txt says how each ended.
set -u
out=$(realpath -m "${1:-gpu-results}")
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
command -v nvidia-smi >/dev/null || { echo "no nvidia-smi: this needs an NVIDIA GPU and its driver"; exit 1; }
mkdir -p "$out"
: >"$out/summary.txt"
failed=0

# step NAME SECONDS COMMAND...
step() {
    local name=$1 seconds=$2 began=$SECONDS status
    shift 2
    timeout -k 5 "$seconds" "$@" >"$out/$name.txt" 2>&1
    status=$?
    [ "$status" -eq 0 ] || failed=1
    printf '%-14s exit %3d  %4d s\n' "$name" "$status" $((SECONDS - began)) | tee -a "$out/summary.txt"
}

step machine 20 nvidia-smi
if command -v nvcc >/dev/null; then # always: kernels that were built of older sources would run unnoticed
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    step build 60 "$python" engine/kernels/build.py --arch "sm_$capability"
fi
step imports 60 "$python" -c "import hamuco.app.chains, hamuco.training.gpu_runtime"
step tests 120 "$python" -m pytest -m gpu -q -rs -W default tests/test_engine_device.py
grep -q skipped "$out/tests.txt" && { echo "tests were skipped, see tests.txt" | tee -a "$out/summary.txt"; failed=1; }
step kernels 40 "$python" -m hamuco.app.cli bench kernels
step latency 90 "$python" -m hamuco.app.cli bench latency --gpu --torch --views 1,4,8 --rounds 50 --out "$out/latency"
step chain 70 "$python" benchmarks/gpu_chain.py --out "$out"
step chain-small 50 "$python" benchmarks/gpu_chain.py --network hamuco-s --rounds 200
tar -czf "$out.tgz" -C "$(dirname "$out")" "$(basename "$out")"
exit $failed
