/* The loops of both passes for one kind of processor. `_resample.c` includes them for each kind.
 *
 * KIND is the suffix of their names, TARGET is the attribute that permits the kind's instructions,
 * and LANES is the number of 32-bit words in one of its vectors. Code for vectors of another length
 * would be much slower.
 */

#define BLOCK_BYTES (4 * LANES)
#define NAMED(name, kind) name##_##kind
#define NAME_OF(name, kind) NAMED(name, kind)
#define NAME(name) NAME_OF(name, KIND)
#define Words NAME(Words)
#define Sums NAME(Sums)
#define INLINE TARGET static inline __attribute__((always_inline))

typedef uint32_t Words __attribute__((vector_size(BLOCK_BYTES)));
typedef int32_t Sums __attribute__((vector_size(BLOCK_BYTES)));

#define ABOVE(sums) (((sums) >> PRECISION_BITS) > UINT8_MAX)
/* Sums with integer parts below 0 become 0, those above 255 become 255. */
#define CUT(sums) (((sums) & ~((sums) >> 31) & ~ABOVE(sums)) | (ABOVE(sums) & (ONE * UINT8_MAX)))

/* Computes a block of the result from lines that are `stride` bytes apart. A shift takes a byte out
 * of its word, and each step is the same for all lanes, so any vector unit can do it. */
INLINE void NAME(weigh_block)(
    const uint8_t *lines, Py_ssize_t stride, const int32_t *weights, const Taps *taps,
    uint8_t *out) {
    Sums first = {0}, second, third, fourth;
    first += HALF;
    second = third = fourth = first;
    for (Py_ssize_t tap = 0; tap < taps->width; tap++) {
        Words line;
        memcpy(&line, lines + tap * stride, sizeof line);
        first += (Sums)(line & UINT8_MAX) * weights[tap];
        second += (Sums)(line >> 8 & UINT8_MAX) * weights[tap];
        third += (Sums)(line >> 16 & UINT8_MAX) * weights[tap];
        fourth += (Sums)(line >> 24) * weights[tap];
    }
    if (taps->overshoot) {
        first = CUT(first);
        second = CUT(second);
        third = CUT(third);
        fourth = CUT(fourth);
    }
    Words made = (Words)(first >> PRECISION_BITS) | (Words)(second >> PRECISION_BITS) << 8 |
                 (Words)(third >> PRECISION_BITS) << 16 | (Words)(fourth >> PRECISION_BITS) << 24;
    memcpy(out, &made, sizeof made);
}

TARGET static void NAME(vertical)(const View *source, const View *out, const Taps *taps) {
    const Py_ssize_t length = source->columns * source->channels;
    for (Py_ssize_t y = 0; y < out->rows; y++) {
        const uint8_t *from = source->data + taps->first[y] * source->stride;
        const int32_t *weights = taps->weights + y * taps->width;
        uint8_t *to = out->data + y * out->stride;
        if (length < BLOCK_BYTES) {
            for (Py_ssize_t at = 0; at < length; at++)
                to[at] = weigh_byte(from + at, source->stride, weights, taps->width);
            continue;
        }
        for (Py_ssize_t at = 0; at < length; at += BLOCK_BYTES) {
            /* The last block ends at the end of the row. */
            Py_ssize_t block = at + BLOCK_BYTES > length ? length - BLOCK_BYTES : at;
            NAME(weigh_block)(from + block, source->stride, weights, taps, to + block);
        }
    }
}

/* Transposes LANES rows of the source, from row y on: rows become lanes, and columns become lines.
 * If there are fewer rows, the last one is repeated. */
INLINE void NAME(turn)(const View *source, Py_ssize_t y, uint8_t *lines) {
    const uint8_t *from[LANES];
    for (Py_ssize_t lane = 0; lane < LANES; lane++) {
        Py_ssize_t row = y + lane < source->rows ? y + lane : source->rows - 1;
        from[lane] = source->data + row * source->stride;
    }
    Py_ssize_t x = 0;
    for (; x + 4 <= source->columns; x += 4)
        for (Py_ssize_t lane = 0; lane < LANES; lane += 4)
            turn_four(from + lane, x * 4, lines + x * BLOCK_BYTES + lane * 4, BLOCK_BYTES);
    for (; x < source->columns; x++)
        for (Py_ssize_t lane = 0; lane < LANES; lane++)
            memcpy(lines + x * BLOCK_BYTES + lane * 4, from[lane] + x * 4, 4);
}

/* The source has four channels. `lines` has room for BLOCK_BYTES of each of its columns. */
TARGET static void NAME(horizontal)(
    const View *source, const View *out, const Taps *taps, uint8_t *lines) {
    for (Py_ssize_t y = 0; y < out->rows; y += LANES) {
        NAME(turn)(source, y, lines);
        const Py_ssize_t rows = out->rows - y < LANES ? out->rows - y : LANES;
        for (Py_ssize_t x = 0; x < out->columns; x++) {
            uint8_t made[BLOCK_BYTES];
            NAME(weigh_block)(
                lines + taps->first[x] * BLOCK_BYTES, BLOCK_BYTES, taps->weights + x * taps->width,
                taps, made);
            uint8_t *to = out->data + y * out->stride + x * out->channels;
            /* Writing four bytes is faster than three. The next pixel overwrites the fourth. */
            if (out->channels == 4 || x + 1 < out->columns)
                for (Py_ssize_t lane = 0; lane < rows; lane++)
                    memcpy(to + lane * out->stride, made + lane * 4, 4);
            else
                for (Py_ssize_t lane = 0; lane < rows; lane++)
                    memcpy(to + lane * out->stride, made + lane * 4, 3);
        }
    }
}

#undef BLOCK_BYTES
#undef NAMED
#undef NAME_OF
#undef NAME
#undef Words
#undef Sums
#undef INLINE
#undef ABOVE
#undef CUT
#undef KIND
#undef TARGET
#undef LANES
