"""The worker's side of its loaders: it takes URIs, and returns pixels or a failure for each.

`chunk.task` and `classify` call the pool. It starts loaders, divides their slots among hosts, and
replaces a loader that has died or hangs.
"""
