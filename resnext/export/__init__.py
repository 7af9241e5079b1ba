"""Writes the network to a folder for Triton, in one file: ONNX, TorchScript or PyTorch's pt2.

`resnextq export` and Python callers pass a model's name and weights.
"""
