"""The rows of `benchmarks/pipeline.py`. Each runs a whole installation and returns its table."""
