"""From pixels to per-view hands. Who imports what, most general first:

hand model              hand_model, skinning
crops                   crops (a crop is a camera), view_hand (what is seen in one)
landmark network        landmarks, palm_detector, model_files (fetches both), quantize
HaMuCo                  bundle (what was trained), hamuco (its networks on the CPU), hamuco_views (in live tracking)
networks on the CPU     openvino_core, openvino_networks
the CUDA driver         cuda_driver, cuda
CUDA kernels            kernels/, kernel_structs, kernel_launch, hand_arrays
HaMuCo on a GPU         gpu_views (in live tracking), gpu_runtime (the chain), gpu_memory, gpu_networks (what the chain
                        asks of networks: tensorrt_networks, or hamuco.training.gpu_networks)
engines                 build, builders (TensorRT), device_graphs (what they are built of), parity, plans (what was
                        built), tensorrt_engine (runs one)
"""

import sys

# Importing openvino reports to Google Analytics, unless its telemetry package cannot be imported. Nobody who tracks hands
# has been asked for that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
