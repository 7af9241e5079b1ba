"""The worker's side of its loaders: URIs come in, pixels or a failure come out for each.

`chunk.task` and `classify` call the pool. It starts loaders, shares their slots out among hosts,
and replaces a loader that has died or hangs.
"""
