"""One step a file: each has a function `check`, which `benchmarks.gpu_check.child` calls."""
