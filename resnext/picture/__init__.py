"""From an image's bytes to pixels: decode, convert to RGB, resize, crop.

Loaders and `Classifier` call it. Bytes come in, and (crop, crop, 3) uint8 or a `DecodeError` goes
out; it loads no torch, except for the fast route.
"""
