/* Pillow's resampling of 8-bit pictures, one axis per call. `native.py` calls it.
 *
 * The arithmetic is that of Pillow's libImaging/Resample.c: weights are computed in doubles in the
 * same order, and rounded to 22 binary places; a pixel is a sum of 32-bit products; the picture
 * between the two passes has 8 bits. So every bit of the result is the same as Pillow's.
 *
 * Only the speed differs. The loops (`_resample_loops.h`) weigh a vector of bytes at once, with
 * extensions that GCC and clang share, and are compiled once for each kind of x86-64 processor.
 *
 * Each function checks all sizes before it reads or writes a pixel. It also copies and checks the
 * weights, so that no other thread can change its arguments to lead it out of bounds, and no sum
 * overflows. There is no state: arguments in, pixels out.
 *
 * `_resample_weigh.h` computes the weights, and `_resample_borrowed.h` gives access to Pillow's
 * memory.
 */

/* The buffer protocol is part of the limited API since Python 3.11. */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#ifndef __GNUC__
#error "GCC or clang is needed: the loops use their vector extensions"
#endif

/* Binary places of a weight. Two bits are for negative weights, and eight for the pixel. */
#define PRECISION_BITS (32 - 8 - 2)
#define ONE ((int32_t)1 << PRECISION_BITS)
#define HALF (ONE / 2)
/* If the absolute weights of one pixel add up to less than this, 32 bits hold every sum. */
#define MOST_WEIGHT ((int64_t)(INT32_MAX - HALF) / UINT8_MAX)
/* Up to this, doubles hold each position in a picture exactly, including its half. */
#define LONGEST_IN ((Py_ssize_t)INT32_MAX)
#define LONGEST_OUT ((int64_t)1 << 52)
/* The most weights of one axis, as in Pillow. */
#define MOST_WEIGHTS ((Py_ssize_t)INT32_MAX / (Py_ssize_t)sizeof(double))
#define MOST_CHANNELS 4

/* (rows, columns, channels) uint8. The pixels of a row are contiguous; the rows may be anywhere. */
typedef struct {
    Py_buffer buffer;
    uint8_t *data;
    Py_ssize_t rows, columns, channels, stride;
} View;

/* The input pixels of each of `count` output pixels: `width` of them from first[i] on. */
typedef struct {
    Py_ssize_t count, width;
    Py_ssize_t *first;
    int32_t *weights; /* (count, width) */
    int overshoot; /* whether a sum can round to less than 0 or to more than 255 */
} Taps;

/* --- The loops ------------------------------------------------------------------------------ */

typedef void Vertical(const View *source, const View *out, const Taps *taps);
typedef void Horizontal(const View *source, const View *out, const Taps *taps, uint8_t *lines);

/* The loops for one kind of processor. */
typedef struct {
    Vertical *vertical;
    Horizontal *horizontal;
} Loops;

/* The bytes of a line of `Horizontal`, for the longest vectors. */
#define LINE_BYTES 32

/* One byte of the result, for rows that are shorter than a vector. */
static inline uint8_t weigh_byte(
    const uint8_t *lines, Py_ssize_t stride, const int32_t *weights, Py_ssize_t width) {
    int32_t sum = HALF;
    for (Py_ssize_t tap = 0; tap < width; tap++)
        sum += lines[tap * stride] * weights[tap];
    int32_t whole = sum >> PRECISION_BITS;
    return (uint8_t)(whole < 0 ? 0 : whole > UINT8_MAX ? UINT8_MAX : whole);
}

typedef uint32_t Four __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (Four){__VA_ARGS__})
#endif

/* Transposes four words of each of four rows, from byte `at` on, to lines of `step` bytes. */
static inline __attribute__((always_inline)) void turn_four(
    const uint8_t *const *from, Py_ssize_t at, uint8_t *lines, Py_ssize_t step) {
    Four row[4];
    for (int i = 0; i < 4; i++)
        memcpy(&row[i], from[i] + at, sizeof row[i]);
    const Four above_left = SHUFFLED(row[0], row[1], 0, 4, 1, 5);
    const Four above_right = SHUFFLED(row[0], row[1], 2, 6, 3, 7);
    const Four below_left = SHUFFLED(row[2], row[3], 0, 4, 1, 5);
    const Four below_right = SHUFFLED(row[2], row[3], 2, 6, 3, 7);
    const Four column[4] = {
        SHUFFLED(above_left, below_left, 0, 1, 4, 5),
        SHUFFLED(above_left, below_left, 2, 3, 6, 7),
        SHUFFLED(above_right, below_right, 0, 1, 4, 5),
        SHUFFLED(above_right, below_right, 2, 3, 6, 7),
    };
    for (int i = 0; i < 4; i++)
        memcpy(lines + i * step, &column[i], sizeof column[i]);
}

/* 128 bits: SSE2, NEON. */
#define KIND baseline
#define TARGET
#define LANES 4
#include "_resample_loops.h"

/* Each call checks the processor. `target_clones` would do this with ifunc, which musl lacks. */
#if defined(__x86_64__) && !defined(BASELINE_ONLY) /* tests define this */
#define KIND avx2
#define TARGET __attribute__((target("avx2")))
#define LANES 8
#include "_resample_loops.h"

/* AVX-512 is not faster: it multiplies half as many vectors of twice the length. */
static Loops best_loops(void) {
    if (__builtin_cpu_supports("avx2"))
        return (Loops){vertical_avx2, horizontal_avx2};
    return (Loops){vertical_baseline, horizontal_baseline};
}
#else
static Loops best_loops(void) { return (Loops){vertical_baseline, horizontal_baseline}; }
#endif

/* --- Arguments ------------------------------------------------------------------------------ */

static int open_view(PyObject *object, const char *name, int flags, View *view) {
    if (PyObject_GetBuffer(object, &view->buffer, PyBUF_STRIDES | flags) < 0)
        return -1;
    const Py_buffer *buffer = &view->buffer;
    if (buffer->ndim != 3 || buffer->itemsize != 1) {
        PyErr_Format(
            PyExc_ValueError, "%s must have 3 dimensions of bytes, got %d of %zd bytes", name,
            buffer->ndim, buffer->itemsize);
    } else if (buffer->shape[2] != 3 && buffer->shape[2] != MOST_CHANNELS) {
        PyErr_Format(
            PyExc_ValueError, "%s must have 3 or 4 channels, got %zd", name, buffer->shape[2]);
    } else if (buffer->strides[2] != 1 || buffer->strides[1] != buffer->shape[2]) {
        PyErr_Format(
            PyExc_ValueError, "the pixels of a row of %s must lie side by side, got strides %zd, %zd",
            name, buffer->strides[1], buffer->strides[2]);
    } else {
        view->data = buffer->buf;
        view->rows = buffer->shape[0];
        view->columns = buffer->shape[1];
        view->channels = buffer->shape[2];
        view->stride = buffer->strides[0];
        return 0;
    }
    PyBuffer_Release(&view->buffer);
    return -1;
}

static void free_taps(Taps *taps) {
    PyMem_Free(taps->first);
    PyMem_Free(taps->weights);
}

/* Copies `first`, less `origin`, and `weights`. Their lengths give count and width. */
static int copy_taps(const Py_buffer *first, const Py_buffer *weights, Py_ssize_t origin, Taps *taps) {
    const Py_ssize_t size = (Py_ssize_t)sizeof(int64_t), weight = (Py_ssize_t)sizeof(int32_t);
    Py_ssize_t count = first->len / size;
    if (count < 1 || first->len % size || weights->len < 1 || weights->len % (count * weight)) {
        PyErr_Format(
            PyExc_ValueError, "first must be int64 and weights int32 for each, got %zd and %zd bytes",
            first->len, weights->len);
        return -1;
    }
    taps->count = count;
    taps->width = weights->len / (count * weight);
    taps->first = PyMem_Malloc((size_t)count * sizeof *taps->first);
    taps->weights = PyMem_Malloc((size_t)weights->len);
    if (!taps->first || !taps->weights) {
        free_taps(taps);
        PyErr_NoMemory();
        return -1;
    }
    memcpy(taps->weights, weights->buf, (size_t)weights->len);
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t position;
        memcpy(&position, (const char *)first->buf + i * size, sizeof position);
        /* If this is not the number of a pixel, `check_taps` refuses the result. */
        taps->first[i] = position < origin || position > LONGEST_IN ? -1 : position - origin;
    }
    return 0;
}

/* Whether all taps are within `available` pixels, and no sum of them can overflow. */
static int check_taps(Taps *taps, Py_ssize_t available) {
    taps->overshoot = 0;
    for (Py_ssize_t i = 0; i < taps->count; i++) {
        if (taps->first[i] < 0 || taps->width > available ||
            taps->first[i] > available - taps->width) {
            PyErr_Format(
                PyExc_ValueError, "taps %zd are %zd pixels from %zd on, outside of the %zd there are",
                i, taps->width, taps->first[i], available);
            return -1;
        }
        int64_t positive = 0, negative = 0;
        for (Py_ssize_t tap = 0; tap < taps->width; tap++) {
            int64_t weight = taps->weights[i * taps->width + tap];
            positive += weight > 0 ? weight : 0;
            negative += weight < 0 ? -weight : 0;
        }
        if (positive + negative > MOST_WEIGHT) {
            PyErr_Format(
                PyExc_ValueError, "the weights of taps %zd must add up to at most %lld, got %lld", i,
                (long long)MOST_WEIGHT, (long long)(positive + negative));
            return -1;
        }
        if (negative || HALF + UINT8_MAX * positive >= ((int64_t)UINT8_MAX + 1) * ONE)
            taps->overshoot = 1;
    }
    return 0;
}

static int read_taps(
    PyObject *first, PyObject *weights, Py_ssize_t origin, Py_ssize_t available, Taps *taps) {
    Py_buffer positions, values;
    if (origin < 0) {
        PyErr_Format(PyExc_ValueError, "origin must be at least 0, got %zd", origin);
        return -1;
    }
    if (PyObject_GetBuffer(first, &positions, PyBUF_SIMPLE) < 0)
        return -1;
    if (PyObject_GetBuffer(weights, &values, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&positions);
        return -1;
    }
    int status = copy_taps(&positions, &values, origin, taps);
    PyBuffer_Release(&values);
    PyBuffer_Release(&positions);
    if (status == 0 && check_taps(taps, available) < 0) {
        free_taps(taps);
        status = -1;
    }
    return status;
}

#include "_resample_weigh.h"

/* --- The passes ----------------------------------------------------------------------------- */

static int run_horizontal(View *source, View *out, Taps *taps) {
    if (source->channels != MOST_CHANNELS || out->rows != source->rows ||
        out->columns != taps->count) {
        PyErr_Format(
            PyExc_ValueError,
            "(%zd, %zd, %zd) of source must become (%zd, %zd, 3 or 4) out of 4 channels, got (%zd, %zd, %zd)",
            source->rows, source->columns, source->channels, source->rows, taps->count, out->rows,
            out->columns, out->channels);
        return -1;
    }
    if (source->columns > PY_SSIZE_T_MAX / LINE_BYTES) {
        PyErr_NoMemory();
        return -1;
    }
    uint8_t *lines = PyMem_Malloc((size_t)source->columns * LINE_BYTES);
    if (!lines) {
        PyErr_NoMemory();
        return -1;
    }
    Horizontal *pass = best_loops().horizontal;
    Py_BEGIN_ALLOW_THREADS
    pass(source, out, taps, lines);
    Py_END_ALLOW_THREADS
    PyMem_Free(lines);
    return 0;
}

static int run_vertical(View *source, View *out, Taps *taps) {
    if (out->rows != taps->count || out->columns != source->columns ||
        out->channels != source->channels) {
        PyErr_Format(
            PyExc_ValueError, "(%zd, %zd, %zd) of source must become (%zd, %zd, %zd), got (%zd, %zd, %zd)",
            source->rows, source->columns, source->channels, taps->count, source->columns,
            source->channels, out->rows, out->columns, out->channels);
        return -1;
    }
    Vertical *pass = best_loops().vertical;
    Py_BEGIN_ALLOW_THREADS
    pass(source, out, taps);
    Py_END_ALLOW_THREADS
    return 0;
}

static PyObject *resample(PyObject *args, int vertically) {
    PyObject *from, *to, *first, *weights;
    Py_ssize_t origin;
    View source, out;
    Taps taps;
    if (!PyArg_ParseTuple(args, "OOOOn", &from, &to, &first, &weights, &origin))
        return NULL;
    if (open_view(from, "source", 0, &source) < 0)
        return NULL;
    int status = open_view(to, "out", PyBUF_WRITABLE, &out);
    if (status == 0) {
        Py_ssize_t available = vertically ? source.rows : source.columns;
        status = read_taps(first, weights, origin, available, &taps);
        if (status == 0) {
            status = vertically ? run_vertical(&source, &out, &taps)
                                : run_horizontal(&source, &out, &taps);
            free_taps(&taps);
        }
        PyBuffer_Release(&out.buffer);
    }
    PyBuffer_Release(&source.buffer);
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    horizontal_doc,
    "horizontal(source, out, first, weights, origin)\n\n"
    "(h, w, 4) uint8 -> (h, n, 3 or 4) uint8, by the taps of `weigh`; the source begins at input\n"
    "column `origin`.");

static PyObject *horizontal(PyObject *module, PyObject *args) { return resample(args, 0); }

PyDoc_STRVAR(
    vertical_doc,
    "vertical(source, out, first, weights, origin)\n\n"
    "(h, w, c) uint8 -> (n, w, c) uint8, by the taps of `weigh`; the source begins at input row\n"
    "`origin`. c is 3 or 4.");

static PyObject *vertical(PyObject *module, PyObject *args) { return resample(args, 1); }

#include "_resample_borrowed.h"

/* --- The module ----------------------------------------------------------------------------- */

static int add_borrowed(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &borrowed_spec, NULL);
    if (!type)
        return -1;
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}

static PyMethodDef functions[] = {
    {"weigh", weigh, METH_VARARGS, weigh_doc},
    {"horizontal", horizontal, METH_VARARGS, horizontal_doc},
    {"vertical", vertical, METH_VARARGS, vertical_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, add_borrowed}, {0, NULL}};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_resample",
    .m_doc = "Pillow's resampling of 8-bit pictures, one axis a call.",
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__resample(void) { return PyModuleDef_Init(&module_definition); }
