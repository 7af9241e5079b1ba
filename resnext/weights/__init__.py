"""Weights from a file, a download or a seed, as a state dict that fits the network.

`resnext.load` calls it with a spec. If a file does not fit, the error names the keys.
"""
