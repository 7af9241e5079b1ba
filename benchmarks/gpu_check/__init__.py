"""Checks in minutes whether the GPU path is correct, survives errors and is as fast as promised.

    make gpu-check
    python -m benchmarks.gpu_check [--steps lanes faults] [--deadline 460] [--table gpu.md]

Each step in `registry` runs in its own process, which `runner` starts, watches and ends. A step
passes its figures to `report` as soon as it has them. The check needs torch and the packages of
`resnext`, but neither broker nor database. Without a GPU, steps that can run on a double of CUDA
do so, and the others print SKIP.
"""
