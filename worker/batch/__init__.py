"""From pixels to classes: takes images of all chunks, and gives each run its outcomes.

`chunk.task` puts in the images that the pool has loaded. One thread fills batches, runs the
classifier and settles the images of each run.
"""
