"""Prepares a loaded network for a device (precision, fusing, compiling), and runs batches.

`Classifier` and the export use it. A runner takes batches of uint8 pixels and returns logits or
classes.
"""
