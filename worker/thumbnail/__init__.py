"""Thumbnails of a sample of each job, and of each class that occurs, from the network's input.

`thumbnails` chooses and stores them, `sample` decides which images are in the sample, and `jpeg`
makes the files.
"""
