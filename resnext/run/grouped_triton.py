"""The Triton kernel for a grouped 3x3 convolution.

`resnext.run.grouped_kernel` launches it. It imports this file only then, because not every machine
has Triton. The kernel works with Triton 3.6 and 3.9.

A program computes `PIXELS` columns of `rows` output rows, for one slice of `TILE` channels. The
columns of all images are side by side, so a narrow map wastes none. The program goes down the rows
and multiplies each input row once with the taps of all output rows that need it. So it reads an
input three times, for the three horizontal taps, and not nine times. The unfinished sums stay in
registers, and the weights of the slice are loaded once.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Integers are not specialised, so one compilation fits all sizes. `TILE` is a constant, so Triton
# still knows that rows of channels are aligned.
_SIZES = ("images", "height", "width", "out_height", "out_width", "slices", "rows")


@triton.jit(do_not_specialize=_SIZES)
def conv3x3_relu(
    x,
    packed,
    bias,
    made,
    images,
    height,
    width,
    out_height,
    out_width,
    slices,
    rows,
    STRIDE: tl.constexpr,
    TILE: tl.constexpr,
    PIXELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Writes relu(conv(x) + bias), padded by 1, into `made`.

    x (images, height, width, slices * TILE), packed (slices, 9, TILE, TILE), bias (slices * TILE),
    made (images, out_height, out_width, slices * TILE); all contiguous. The grid is
    (⌈images * out_width / PIXELS⌉ * slices, ⌈out_height / rows⌉).
    """
    # Slices first, so that concurrent programs read neighbouring channels of the same pixels.
    slice_of_channels = tl.program_id(0) % slices
    place = (tl.program_id(0) // slices) * PIXELS + tl.arange(0, PIXELS)
    first = tl.program_id(1) * rows
    last = tl.minimum(first + rows, out_height)

    is_there = place < images * out_width
    # 64 bits, because a batch may have more than 2^31 values. An image has fewer.
    image = (place // out_width).to(tl.int64)
    column = place % out_width
    left = column * STRIDE - 1
    is_left = is_there & (left >= 0)
    is_right = is_there & (left + 2 < width)

    channels = slices * TILE
    channel = slice_of_channels * TILE + tl.arange(0, TILE)
    x_at = (x + image * height * width * channels)[:, None] + channel[None, :]
    made_at = (made + (image * out_height * out_width + column) * channels)[:, None] + channel[None]
    taps = tl.arange(0, TILE)[:, None] * TILE + tl.arange(0, TILE)[None, :]
    packed_at = packed + slice_of_channels * 9 * TILE * TILE + taps
    top_0, top_1, top_2 = _load_weights(packed_at, 0, TILE)
    mid_0, mid_1, mid_2 = _load_weights(packed_at, 1, TILE)
    low_0, low_1, low_2 = _load_weights(packed_at, 2, TILE)
    start = tl.load(bias + channel).to(tl.float32)[None, :]

    # The sums of the output rows `row`, `row + 1` and `row + 2`. With stride 2 there is no third.
    total = tl.zeros((PIXELS, TILE), tl.float32)
    next_total = tl.zeros((PIXELS, TILE), tl.float32)
    third_total = tl.zeros((PIXELS, TILE), tl.float32)
    # The rows before the first only begin its sum and are not stored. Row -1 of the input is zero.
    # (A mask prevents the store: with a branch here, Triton 3.6 does not compile for Hopper.)
    lead: tl.constexpr = 3 - STRIDE
    stored_from = tl.where(is_there, first, last)
    for row in range(tl.maximum(first, lead - 1) - lead, last):
        if STRIDE != 1:
            x_0, x_1, x_2 = _load_row(
                x_at, 2 * row, left, height, width, channels, is_left, is_there, is_right
            )
            total = _add(total, x_0, x_1, x_2, mid_0, mid_1, mid_2, PRECISION)
        x_0, x_1, x_2 = _load_row(
            x_at, row * STRIDE + 1, left, height, width, channels, is_left, is_there, is_right
        )
        total = _add(total, x_0, x_1, x_2, low_0, low_1, low_2, PRECISION)
        if STRIDE == 1:
            next_total = _add(next_total, x_0, x_1, x_2, mid_0, mid_1, mid_2, PRECISION)
            third_total = _add(third_total, x_0, x_1, x_2, top_0, top_1, top_2, PRECISION)
        else:
            next_total = _add(next_total, x_0, x_1, x_2, top_0, top_1, top_2, PRECISION)
        # Like torch's ReLU, this keeps NaN.
        result = tl.maximum(total + start, 0.0, propagate_nan=tl.PropagateNan.ALL)
        at = made_at + row * out_width * channels
        tl.store(at, result.to(made.dtype.element_ty), mask=(row >= stored_from)[:, None])
        total = next_total
        next_total = third_total
        third_total = tl.zeros((PIXELS, TILE), tl.float32)


@triton.jit
def _load_weights(packed_at, line: tl.constexpr, TILE: tl.constexpr):
    """The three taps of one line of the kernel, each (TILE in, TILE out)."""
    at = packed_at + line * 3 * TILE * TILE
    return tl.load(at), tl.load(at + TILE * TILE), tl.load(at + 2 * TILE * TILE)


@triton.jit
def _load_row(x_at, row, left, height, width, channels, is_left, is_there, is_right):
    """The input row for the three horizontal taps, each (PIXELS, TILE). Zero outside the map."""
    is_row = (row >= 0) & (row < height)
    at = x_at + ((row * width + left) * channels)[:, None]
    return (
        tl.load(at, mask=(is_left & is_row)[:, None], other=0.0),
        tl.load(at + channels, mask=(is_there & is_row)[:, None], other=0.0),
        tl.load(at + 2 * channels, mask=(is_right & is_row)[:, None], other=0.0),
    )


@triton.jit
def _add(total, x_0, x_1, x_2, w_0, w_1, w_2, PRECISION: tl.constexpr):
    """Adds the products of an input row with a line of the kernel."""
    total = tl.dot(x_0, w_0, total, input_precision=PRECISION)
    total = tl.dot(x_1, w_1, total, input_precision=PRECISION)
    return tl.dot(x_2, w_2, total, input_precision=PRECISION)
