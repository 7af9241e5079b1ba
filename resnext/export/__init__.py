"""Writes the network with its preprocessing to one file, ONNX or PyTorch's pt2, for Triton.

`resnextq export` and callers from Python pass a model's name and weights; a folder goes out.
"""
