/* Pillow's resampling of 8-bit pictures, one axis a call; `native.py` says what is called when.
 *
 * The integers are those of Pillow's libImaging/Resample.c: weights are computed in doubles, in
 * its order, and rounded to 22 binary places; a pixel is a sum of 32-bit products; the picture
 * between the two passes has 8 bits. So every bit of the result is Pillow's.
 *
 * What differs is the speed. The loops (`_resample_loops.h`) weigh a vector of bytes at once, by
 * extensions that GCC and clang share, and are compiled once for each kind of x86-64 processor.
 *
 * Each function checks all sizes before it reads or writes a pixel. It copies and checks the
 * weights too, so that nothing another thread does to its arguments leads it out of bounds, and
 * no sum overflows. There is no state: arguments in, pixels out.
 */

/* The buffer protocol belongs to the limited API since Python 3.11. */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#ifndef __GNUC__
#error "GCC or clang is needed: the loops use their vector extensions"
#endif

/* Binary places of a weight. Two bits are head-room for negative weights, eight the pixel. */
#define PRECISION_BITS (32 - 8 - 2)
#define ONE ((int32_t)1 << PRECISION_BITS)
#define HALF (ONE / 2)
/* If the weights of one pixel add up to less, without their signs, 32 bits hold every sum. */
#define MOST_WEIGHT ((int64_t)(INT32_MAX - HALF) / UINT8_MAX)
/* Doubles hold each position in a picture exactly, with its half. */
#define LONGEST_IN ((Py_ssize_t)INT32_MAX)
#define LONGEST_OUT ((int64_t)1 << 52)
/* Of one axis, as many as Pillow takes. */
#define MOST_WEIGHTS ((Py_ssize_t)INT32_MAX / (Py_ssize_t)sizeof(double))
#define MOST_CHANNELS 4
/* (rows, columns, channels) uint8; pixels of a row lie side by side, rows anywhere. */
typedef struct {
    Py_buffer buffer;
    uint8_t *data;
    Py_ssize_t rows, columns, channels, stride;
} View;

/* The pixels that make each of `count` output pixels: `width` of them from first[i] on. */
typedef struct {
    Py_ssize_t count, width;
    Py_ssize_t *first;
    int32_t *weights; /* (count, width) */
    int overshoot; /* whether a sum can round to less than 0 or to more than 255 */
} Taps;

/* --- The loops ------------------------------------------------------------------------------ */

typedef void Vertical(const View *source, const View *out, const Taps *taps);
typedef void Horizontal(const View *source, const View *out, const Taps *taps, uint8_t *lines);

/* What a kind of processor runs. */
typedef struct {
    Vertical *vertical;
    Horizontal *horizontal;
} Loops;

/* Bytes of a line of `Horizontal`, for the longest vectors. */
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

/* Four words of each of four rows, from byte `at` on: the columns become lines of `step` bytes. */
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

/* The processor is asked in each call. `target_clones` would do it by ifunc, which musl lacks. */
#if defined(__x86_64__) && !defined(BASELINE_ONLY) /* as tests define it */
#define KIND avx2
#define TARGET __attribute__((target("avx2")))
#define LANES 8
#include "_resample_loops.h"

/* AVX-512 is no faster: it multiplies half as many vectors of twice the length. */
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

/* Copies `first`, less `origin`, and `weights`: count and width follow from their lengths. */
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
        /* Where this is no number of a pixel, `check_taps` refuses what it becomes. */
        taps->first[i] = position < origin || position > LONGEST_IN ? -1 : position - origin;
    }
    return 0;
}

/* Whether all taps lie among `available` pixels, and no sum of theirs can overflow. */
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

/* --- weigh ---------------------------------------------------------------------------------- */

typedef double Filter(double x);

/* Pillow's BILINEAR. */
static double triangle(double x) {
    if (x < 0.0)
        x = -x;
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Pillow's BICUBIC (Keys, a = -0.5), its operations in its order. */
static double cubic(double x) {
    const double a = -0.5;
    if (x < 0.0)
        x = -x;
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

/* One axis: in_size pixels become so many that each is `scale` of them. */
typedef struct {
    Filter *filter;
    Py_ssize_t in_size;
    double scale, filter_scale, support;
} Axis;

typedef struct {
    double centre;
    Py_ssize_t first, last; /* one past the end */
} Span;

static Span span_of(const Axis *axis, int64_t position) {
    double centre = ((double)position + 0.5) * axis->scale;
    Py_ssize_t first = (Py_ssize_t)(centre - axis->support + 0.5);
    Py_ssize_t last = (Py_ssize_t)(centre + axis->support + 0.5);
    return (Span){centre, first < 0 ? 0 : first, last > axis->in_size ? axis->in_size : last};
}

/* The weights of a span, in order, rounded as Pillow rounds them. */
static int fill_weights(const Axis *axis, Span span, double *exact, char *weights) {
    double total = 0.0, step = 1.0 / axis->filter_scale;
    Py_ssize_t width = span.last - span.first;
    for (Py_ssize_t tap = 0; tap < width; tap++) {
        exact[tap] = axis->filter(((double)(span.first + tap) - span.centre + 0.5) * step);
        total += exact[tap];
    }
    for (Py_ssize_t tap = 0; tap < width; tap++) {
        double weight = total != 0.0 ? exact[tap] / total : exact[tap];
        if (!(weight > -2.0 && weight < 2.0)) {
            PyErr_Format(PyExc_ValueError, "a weight is not within 2, of pixel %zd", span.first + tap);
            return -1;
        }
        int32_t rounded_weight = (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * ONE);
        memcpy(weights + tap * (Py_ssize_t)sizeof rounded_weight, &rounded_weight, sizeof rounded_weight);
    }
    return 0;
}

static PyObject *weigh_axis(const Axis *axis, int64_t begin, Py_ssize_t count) {
    Py_ssize_t width = 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        Span span = span_of(axis, begin + i);
        width = span.last - span.first > width ? span.last - span.first : width;
    }
    const Py_ssize_t size = (Py_ssize_t)sizeof(int64_t), weight = (Py_ssize_t)sizeof(int32_t);
    if (count > MOST_WEIGHTS / width)
        return PyErr_Format(
            PyExc_MemoryError, "%zd pixels of %zd weights each are more than %zd weights", count,
            width, MOST_WEIGHTS);
    double *exact = PyMem_Malloc((size_t)width * sizeof *exact);
    PyObject *first = PyBytes_FromStringAndSize(NULL, count * size);
    PyObject *weights = PyBytes_FromStringAndSize(NULL, count * width * weight);
    PyObject *made = NULL;
    if (!exact || !first || !weights) {
        PyErr_NoMemory();
        goto done;
    }
    char *positions = PyBytes_AsString(first), *values = PyBytes_AsString(weights);
    memset(values, 0, (size_t)(count * width * weight));
    for (Py_ssize_t i = 0; i < count; i++) {
        Span span = span_of(axis, begin + i);
        /* All have the same width: the last ones start further left, with weights of 0. */
        Py_ssize_t latest = axis->in_size - width;
        int64_t position = span.first > latest ? latest : span.first;
        memcpy(positions + i * size, &position, sizeof position);
        Py_ssize_t moved = span.first - (Py_ssize_t)position;
        if (fill_weights(axis, span, exact, values + (i * width + moved) * weight) < 0)
            goto done;
    }
    made = PyTuple_Pack(2, first, weights);
done:
    PyMem_Free(exact);
    Py_XDECREF(first);
    Py_XDECREF(weights);
    return made;
}

PyDoc_STRVAR(
    weigh_doc,
    "weigh(in_size, out_size, begin, end, interpolation) -> (first, weights)\n\n"
    "The taps of output pixels begin to end where in_size pixels become out_size: the first\n"
    "input pixel of each, int64, and its weights, int32, as many for each. All lie in the input.");

static PyObject *weigh(PyObject *module, PyObject *args) {
    Py_ssize_t in_size;
    long long out_size, begin, end;
    const char *interpolation;
    if (!PyArg_ParseTuple(args, "nLLLs", &in_size, &out_size, &begin, &end, &interpolation))
        return NULL;
    if (in_size < 1 || in_size > LONGEST_IN || out_size < 1 || out_size > LONGEST_OUT)
        return PyErr_Format(
            PyExc_ValueError, "sizes must be at least 1 and at most %zd and %lld, got %zd and %lld",
            LONGEST_IN, (long long)LONGEST_OUT, in_size, out_size);
    if (begin < 0 || end <= begin || end > out_size || end - begin > MOST_WEIGHTS)
        return PyErr_Format(
            PyExc_ValueError, "pixels %lld to %lld are no part of %lld", begin, end, out_size);
    Axis axis = {.in_size = in_size};
    double radius;
    if (strcmp(interpolation, "bilinear") == 0) {
        axis.filter = triangle;
        radius = 1.0;
    } else if (strcmp(interpolation, "bicubic") == 0) {
        axis.filter = cubic;
        radius = 2.0;
    } else {
        return PyErr_Format(
            PyExc_ValueError, "interpolation must be bilinear or bicubic, got %s", interpolation);
    }
    axis.scale = (double)in_size / (double)out_size;
    axis.filter_scale = axis.scale < 1.0 ? 1.0 : axis.scale;
    axis.support = radius * axis.filter_scale;
    return weigh_axis(&axis, begin, (Py_ssize_t)(end - begin));
}

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

/* --- Borrowed ------------------------------------------------------------------------------- */

/* The Arrow C data interface, as its specification has it. */
struct ArrowSchema {
    const char *format, *name, *metadata;
    int64_t flags, n_children;
    struct ArrowSchema **children, *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children, *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

typedef struct {
    PyObject_HEAD
    struct ArrowArray array; /* ours: it keeps the pixels, and is released with this object */
    Py_ssize_t shape[3], strides[3];
} Borrowed;

PyDoc_STRVAR(
    borrowed_doc,
    "Borrowed(schema, array, rows, columns)\n\n"
    "The memory of a picture of four bytes a pixel, out of what its `__arrow_c_array__()` gives:\n"
    "a buffer of (rows, columns, 4) bytes, read-only, which keeps that memory alive.");

static int is_pixels(const struct ArrowSchema *schema) {
    return schema->release && schema->format && strcmp(schema->format, "+w:4") == 0 &&
           schema->n_children == 1 && schema->children[0]->format &&
           strcmp(schema->children[0]->format, "C") == 0;
}

/* Whether the array holds `pixels` pixels side by side from its first byte on, none missing. */
static int holds(const struct ArrowArray *array, int64_t pixels) {
    if (!array->release || array->length != pixels || array->offset || array->null_count ||
        array->n_children != 1)
        return 0;
    const struct ArrowArray *bytes = array->children[0];
    return bytes->offset == 0 && bytes->null_count == 0 && bytes->n_buffers == 2 &&
           bytes->buffers[1] && bytes->length >= MOST_CHANNELS * pixels;
}

static PyObject *borrowed_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    PyObject *schema_capsule, *array_capsule;
    Py_ssize_t rows, columns;
    if (named && PyDict_Size(named))
        return PyErr_Format(PyExc_TypeError, "Borrowed takes no keyword arguments");
    if (!PyArg_ParseTuple(args, "OOnn", &schema_capsule, &array_capsule, &rows, &columns))
        return NULL;
    if (rows < 1 || columns < 1 || rows > PY_SSIZE_T_MAX / MOST_CHANNELS / columns)
        return PyErr_Format(PyExc_ValueError, "%zd x %zd are no size of a picture", columns, rows);
    struct ArrowSchema *schema = PyCapsule_GetPointer(schema_capsule, "arrow_schema");
    struct ArrowArray *array = schema ? PyCapsule_GetPointer(array_capsule, "arrow_array") : NULL;
    if (!array)
        return NULL;
    if (!is_pixels(schema))
        return PyErr_Format(
            PyExc_ValueError, "pixels must be +w:4 of C, got %s",
            schema->release && schema->format ? schema->format : "a schema that was released");
    if (!holds(array, rows * columns))
        return PyErr_Format(
            PyExc_ValueError, "the array does not hold %zd x %zd pixels: its length is %lld", columns,
            rows, (long long)array->length);
    Borrowed *self = (Borrowed *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    /* Moved, as the specification wants it: the capsule has nothing left to release. */
    self->array = *array;
    array->release = NULL;
    const Py_ssize_t shape[3] = {rows, columns, MOST_CHANNELS};
    const Py_ssize_t strides[3] = {columns * MOST_CHANNELS, MOST_CHANNELS, 1};
    memcpy(self->shape, shape, sizeof shape);
    memcpy(self->strides, strides, sizeof strides);
    return (PyObject *)self;
}

static void borrowed_dealloc(PyObject *object) {
    Borrowed *self = (Borrowed *)object;
    PyTypeObject *type = Py_TYPE(object);
    self->array.release(&self->array);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static int borrowed_getbuffer(PyObject *object, Py_buffer *view, int flags) {
    Borrowed *self = (Borrowed *)object;
    if ((flags & PyBUF_WRITABLE) || (flags & PyBUF_STRIDES) != PyBUF_STRIDES) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "borrowed pixels have three dimensions, to be read");
        return -1;
    }
    *view = (Py_buffer){
        .buf = (void *)self->array.children[0]->buffers[1],
        .obj = Py_NewRef(object),
        .len = self->shape[0] * self->strides[0],
        .itemsize = 1,
        .readonly = 1,
        .ndim = 3,
        .format = flags & PyBUF_FORMAT ? "B" : NULL,
        .shape = self->shape,
        .strides = self->strides,
    };
    return 0;
}

static PyType_Slot borrowed_slots[] = {
    {Py_tp_new, borrowed_new},
    {Py_tp_dealloc, borrowed_dealloc},
    {Py_tp_doc, (void *)borrowed_doc},
    {Py_bf_getbuffer, borrowed_getbuffer},
    {0, NULL},
};

static PyType_Spec borrowed_spec = {
    .name = "resnext.picture._resample.Borrowed",
    .basicsize = sizeof(Borrowed),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = borrowed_slots,
};

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
