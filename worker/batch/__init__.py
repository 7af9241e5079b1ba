"""From pixels to classes: images of all chunks come in, and an outcome for each goes out.

`chunk.task` puts in what the pool has loaded. One thread fills batches, runs the classifier and
tells each run its outcomes.
"""
