#!/usr/bin/env bash
# What a computer with an NVIDIA GPU can tell, in some nine minutes, and some more with TensorRT: the kernels' and the chain's
# tests on the device, the kernels' times, the chain's latency with torch and with engines that are built for it, a profile.
#
#     benchmarks/gpu.sh [FOLDER]        # results, also packed as FOLDER.tgz; gpu-results if not given
#
# PYTHON is the interpreter (.venv/bin/python if there is one). It needs torch with CUDA, what tests need, and g++; and nvcc
# if the kernels are not built yet. Engines are built with tensorrt and tensorrt-rtx where these are installed and know the GPU.
# A step that fails does not stop the others; summary.txt says how each ended.
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
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
if command -v nvcc >/dev/null; then # always: kernels that were built of older sources would run unnoticed
    step build 60 "$python" engine/kernels/build.py --arch "sm_$capability"
fi
step imports 60 "$python" -c "import hamuco.app.chains, hamuco.engine.gpu_runtime, hamuco.training.gpu_networks"
rows=() without=()
for runtime in tensorrt tensorrt-rtx; do # those that are installed and know this GPU
    arch=(); [ "$runtime" = tensorrt ] || arch=(--arch "sm_$capability")
    if "$python" -c "import sys; from hamuco.engine.builders import Builder; Builder(sys.argv[1], tuple(sys.argv[3:]))" \
        "$runtime" "${arch[@]}" 2>"$out/$runtime.txt"; then
        step "engine-$runtime" 400 "$python" -m hamuco.app.cli build hamuco-s --runtime "$runtime" "${arch[@]}" \
            --views 1:4:8 --replace
        rows+=(--runtime "$runtime")
    else
        echo "no $runtime: $(tail -n 1 "$out/$runtime.txt")" | tee -a "$out/summary.txt"
        without+=(--deselect "tests/test_engine_device.py::test_the_chain_is_that_of_the_cpu[$runtime]")
    fi
done
if "$python" -c "import tensorrt, torch_tensorrt" 2>/dev/null; then # says how far its joints are from the CPU's
    step engine-torch 400 "$python" -m hamuco.app.cli build hamuco-s --runtime tensorrt --route torch --views 1:4:8 --replace
fi
step tests 240 "$python" -m pytest -m gpu -q -rs -W default tests/test_engine_device.py "${without[@]}"
grep -q skipped "$out/tests.txt" && { echo "tests were skipped, see tests.txt" | tee -a "$out/summary.txt"; failed=1; }
step kernels 40 "$python" -m hamuco.app.cli bench kernels
step latency 150 "$python" -m hamuco.app.cli bench latency --gpu --torch "${rows[@]}" --views 1,4,8 \
    --rounds 50 --out "$out/latency"
step chain 70 "$python" benchmarks/gpu_chain.py --out "$out"
step chain-small 50 "$python" benchmarks/gpu_chain.py --network hamuco-s --rounds 200
tar -czf "$out.tgz" -C "$(dirname "$out")" "$(basename "$out")"
exit $failed
