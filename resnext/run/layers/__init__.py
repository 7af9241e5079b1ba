"""How a GPU computes the convolutions of a network, without a compiler.

Each convolution can be computed in several ways, and which one is fastest depends on the GPU, the
versions of its libraries, the layer and the size of the batch. So each way (a kind, in a file of
its own) is tried on the very device, checked against a reference, and timed. `choose` does that,
`store` keeps what it found on disk, and `network` computes with the fastest.
"""
