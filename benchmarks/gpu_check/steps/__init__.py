"""One file per step. Each has a function `check`, which `benchmarks.gpu_check.child` calls."""
