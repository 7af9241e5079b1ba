"""Weights from a file, a download or a seed, as a state dict that fits the network.

`resnext.load` calls it with a spec. A file that does not fit is refused with its keys.
"""
