"""How a GPU computes the convolutions of a network, without a compiler.

Each convolution can be computed in several ways. Which one is fastest depends on the GPU, the
versions of its libraries, the layer and the size of the batch. So each way (a kind, in its own
file) is tried on the actual device, checked against a reference, and timed. `choose` does this,
`store` keeps the results on disk, and `network` computes in the fastest way.
"""
