"""What is measured, beside its peer in the same run; each room says what it measures.

Run from the repository's folder: `python -m benchmarks.stage.decode photographs.tar`.
"""
