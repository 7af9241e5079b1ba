"""A loaded network made ready for a device: precision, fusing, compiling, and its streams.

`Classifier` and the export call it. Batches of uint8 pixels go through a runner and come back as
logits or classes.
"""
