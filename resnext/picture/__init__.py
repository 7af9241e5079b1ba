"""From an image's bytes to pixels: decode, convert to RGB, resize, crop.

Loaders and `Classifier` call it. It takes bytes, and returns (crop, crop, 3) uint8 or raises a
`DecodeError`. It loads no torch, except for the fast route.
"""
