"""Benchmarks, most of them beside a peer in the same run. Each package says what it measures.

Run them from the repository's folder: `python -m benchmarks.stage.decode photographs.tar`.
"""
