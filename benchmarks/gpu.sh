#!/usr/bin/env bash
# What a computer with an NVIDIA GPU can tell, in some nine minutes, and some more with TensorRT: the kernels' and the chain's
# tests on the device, the kernels' times, the chain's latency with torch and with engines that are built for it, a profile.
#
#     benchmarks/gpu.sh [FOLDER]        # results, also packed as FOLDER.tgz after every step; gpu-results if not given
#
# PYTHON is the interpreter (.venv/bin/python if there is one). It needs torch with CUDA, what tests need, and g++; and nvcc
# if the kernels are not built yet. Engines are built with tensorrt and tensorrt-rtx where these are installed and know the GPU.
# A step that fails does not stop the others; summary.txt says how each ended.
set -u
out=$(realpath -m "${1:-gpu-results}")
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
command -v nvidia-smi >/dev/null || { echo "no nvidia-smi: this needs an NVIDIA GPU and its driver"; exit 1; }
"$python" -c "import hamuco" 2>/dev/null || { # on a computer where nothing can be installed, it runs from here
    link=$(mktemp -d) && trap 'rm -r "$link"' EXIT
    ln -s "$PWD" "$link/hamuco"
    export PYTHONPATH="$link${PYTHONPATH:+:$PYTHONPATH}"
}
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 # what a step has said so far is there if it is killed
mkdir -p "$out"
: >"$out/summary.txt"
failed=0

note() { echo "$1" | tee -a "$out/summary.txt"; }

# step NAME SECONDS COMMAND...
step() {
    local name=$1 seconds=$2 began=$SECONDS status
    shift 2
    timeout -k 5 "$seconds" "$@" >"$out/$name.txt" 2>&1
    status=$?
    [ "$status" -eq 0 ] || failed=1
    note "$(printf '%-20s exit %3d  %4d s' "$name" "$status" $((SECONDS - began)))"
    tar -czf "$out.tgz" -C "$(dirname "$out")" "$(basename "$out")"
    return "$status"
}

# tests NAME SECONDS PYTEST-ARGUMENTS...: those that need the device; one that is skipped has not been run
tests() {
    local name=$1
    step "$name" "$2" "$python" -m pytest -m gpu -q -rs -W default --timeout 100 tests/test_engine_device.py "${@:3}" || return
    if grep -q skipped "$out/$name.txt"; then note "skipped, see $name.txt"; failed=1; fi
}

step machine 30 bash -c 'nvidia-smi; nvcc --version; "$0" -m pip list' "$python"
step imports 60 "$python" -c "import openvino, hamuco.app.cli, hamuco.app.chains, hamuco.engine.gpu_runtime, \
    hamuco.training.gpu_networks, hamuco.training.weights"
architecture=$("$python" -c "from hamuco.engine.cuda import Device; from hamuco.engine.cuda_driver import load_driver
print(Device(load_driver()).architecture)" 2>"$out/device.txt") || { note "no device: $(tail -n 1 "$out/device.txt")"; exit 1; }
if "$python" -c "from hamuco.engine.kernels.build import find_nvcc; find_nvcc()" 2>"$out/nvcc.txt"; then
    step build 60 "$python" engine/kernels/build.py --arch "$architecture" # older ones would run unnoticed
else
    note "kernels are not built anew: $(tail -n 1 "$out/nvcc.txt")"
fi
tests tests-kernels 90 -k "not chain" || {
    command -v compute-sanitizer >/dev/null && step sanitizer 90 compute-sanitizer "$python" -m pytest -m gpu -q -x \
        -W default tests/test_engine_device.py -k "not chain"
}
for which in torch torch-last; do tests "tests-$which" 60 -k "chain and [$which]"; done
rows=()
for runtime in tensorrt tensorrt-rtx; do # those that are installed and know this GPU
    "$python" -c "import sys; from importlib.util import find_spec
sys.exit(not any(map(find_spec, sys.argv[1:])))" $([ "$runtime" = tensorrt ] && echo tensorrt || echo tensorrt_rtx tensorrt_rtx_bindings) ||
        { note "no $runtime: it is not installed"; continue; }
    arch=()
    if [ "$runtime" = tensorrt-rtx ]; then
        arch=(--arch "$architecture")
        "$python" -c "import sys; from hamuco.engine.plans import RTX_ARCHITECTURES as known; sys.exit(sys.argv[1] not in known)" \
            "$architecture" || { note "no $runtime: it does not build for $architecture"; continue; }
    fi
    step "engine-$runtime" 400 "$python" -m hamuco.app.cli build hamuco-s --runtime "$runtime" "${arch[@]}" --views 1:4:8 \
        --replace || continue
    tests "tests-$runtime" 90 -k "chain and [$runtime]"
    rows+=(--runtime "$runtime")
done
if "$python" -c "import tensorrt, torch_tensorrt" 2>/dev/null; then # says how far its joints are from the CPU's
    step engine-torch 400 "$python" -m hamuco.app.cli build hamuco-s --runtime tensorrt --route torch --views 1:4:8 --replace
fi
step kernels 60 "$python" -m hamuco.app.cli bench kernels
step latency 120 "$python" -m hamuco.app.cli bench latency --gpu --torch "${rows[@]}" --views 1,4,8 \
    --rounds 50 --out "$out/latency"
step chain 70 "$python" benchmarks/gpu_chain.py --out "$out"
step chain-small 50 "$python" benchmarks/gpu_chain.py --network hamuco-s --rounds 200
exit $failed
