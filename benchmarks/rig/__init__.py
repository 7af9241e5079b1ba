"""Tools of the other benchmarks: a web to fetch from, an installation, simulated workers.

Nothing here measures by itself.
"""
