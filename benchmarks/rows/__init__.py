"""The rows of `benchmarks/pipeline.py`: each runs a whole installation and returns its table."""
