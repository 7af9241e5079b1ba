/* `weigh`: the input pixels of an output pixel, and their weights, in doubles like Pillow.
 * Part of `_resample.c`. */

typedef double Filter(double x);

/* Pillow's BILINEAR. */
static double triangle(double x) {
    if (x < 0.0)
        x = -x;
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Pillow's BICUBIC (Keys, a = -0.5), with the same operations in the same order. */
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

/* One axis of in_size pixels. Each output pixel covers `scale` input pixels. */
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

/* The weights of a span, in order, rounded like in Pillow. */
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
        /* All have the same width, so the last ones start further left, with weights of 0. */
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
