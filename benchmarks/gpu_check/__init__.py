"""Whether the GPU path is right, survives its faults and is as fast as promised, in minutes.

    make gpu-check
    python -m benchmarks.gpu_check [--steps lanes faults] [--deadline 460] [--table gpu.md]

Each step of `registry` is a process of its own, which `runner` starts, watches and ends. A step
tells `report` its figures as they come. It needs torch and what `resnext` needs: neither broker nor
database. Without a GPU, what can run on a double of CUDA does, and the rest says SKIP.
"""
