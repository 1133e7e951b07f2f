"""CUDA sources, and the build of them."""
