/* `Borrowed`: the memory of a Pillow image as a buffer, without a copy. Part of `_resample.c`. */

/* The Arrow C data interface, as in its specification. */
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
    struct ArrowArray array; /* owned: it keeps the pixels, and is released with this object */
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

/* Whether the array has `pixels` contiguous pixels from its first byte on, and none is null. */
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
    /* Moved, as the specification requires: the capsule has nothing left to release. */
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
