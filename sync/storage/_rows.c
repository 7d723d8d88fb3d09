/* Row codec in C: the canonical CBOR of rows and their keyed BLAKE2b digests, many at a time.

   An optional part. sync/storage/row_codec.py has the same functions in Python, which serve where this file was not compiled, and
   the same tests hold both (tests/sync/storage/test_row_codec.py). ADR 47.

   CBOR: RFC 8949, with the shortest form of every number. BLAKE2b: RFC 7693. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000 /* one build for every Python from 3.11 on */
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* ---- a buffer that grows */

typedef struct {
    unsigned char *data;
    size_t size, room;
} Buffer;

static int reserve(Buffer *b, size_t more)
{
    if (b->size + more <= b->room)
        return 0;
    size_t room = 2 * b->room + more + 256;
    unsigned char *data = PyMem_Realloc(b->data, room);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    b->data = data;
    b->room = room;
    return 0;
}

static int put(Buffer *b, const void *data, size_t size)
{
    if (reserve(b, size) < 0)
        return -1;
    memcpy(b->data + b->size, data, size);
    b->size += size;
    return 0;
}

static void big_endian(unsigned char *to, uint64_t value, int width)
{
    for (int at = width - 1; at >= 0; at--, value >>= 8)
        to[at] = (unsigned char)value;
}

static int put_head(Buffer *b, int major, uint64_t value)
{
    unsigned char head[9];
    int width = value < 24 ? 0 : value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
    if (width == 0) {
        head[0] = (unsigned char)(major << 5 | (int)value);
    } else {
        head[0] = (unsigned char)(major << 5 | (width == 1 ? 24 : width == 2 ? 25 : width == 4 ? 26 : 27));
        big_endian(head + 1, value, width);
    }
    return put(b, head, 1 + (size_t)width);
}

/* ---- CBOR of SQLite's values; a list is text that is not UTF-8, as sqlite/raw_text.py keeps it */

/* Returns the bits of a half if the float is equal to one, else -1. */
static int32_t half_of(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, 4);
    uint32_t sign = bits >> 16 & 0x8000, fraction = bits & 0x7fffff;
    int32_t exponent = (int32_t)(bits >> 23 & 0xff) - 127;
    if ((bits & 0x7fffffff) == 0)
        return (int32_t)sign;
    if (exponent >= -14 && exponent <= 15 && (fraction & 0x1fff) == 0)
        return (int32_t)(sign | (uint32_t)(exponent + 15) << 10 | fraction >> 13);
    if (exponent >= -24 && exponent < -14) { /* a subnormal half */
        uint32_t whole = fraction | 0x800000;
        int shift = -exponent - 1; /* 13 + (-14 - exponent) */
        if ((whole & ((1u << shift) - 1)) == 0)
            return (int32_t)(sign | whole >> shift);
    }
    return -1;
}

static int put_float(Buffer *b, double number)
{
    unsigned char head[9];
    float narrow = (float)number;
    int32_t half;
    if (isnan(number))
        return put(b, "\xf9\x7e\x00", 3);
    if (isinf(number))
        return put(b, number > 0 ? "\xf9\x7c\x00" : "\xf9\xfc\x00", 3);
    if ((double)narrow != number) {
        uint64_t bits;
        memcpy(&bits, &number, 8);
        head[0] = 0xfb;
        big_endian(head + 1, bits, 8);
        return put(b, head, 9);
    }
    half = half_of(narrow);
    if (half >= 0) {
        head[0] = 0xf9;
        big_endian(head + 1, (uint64_t)half, 2);
        return put(b, head, 3);
    }
    uint32_t bits;
    memcpy(&bits, &narrow, 4);
    head[0] = 0xfa;
    big_endian(head + 1, bits, 4);
    return put(b, head, 5);
}

static Py_ssize_t length(PyObject *items)
{
    return PyList_Check(items) ? PyList_Size(items) : PyTuple_Size(items);
}

/* Returns a borrowed reference to an item of a list or a tuple. */
static PyObject *item(PyObject *items, Py_ssize_t at)
{
    return PyList_Check(items) ? PyList_GetItem(items, at) : PyTuple_GetItem(items, at);
}

static int put_value(Buffer *b, PyObject *value, int depth);

static int put_items(Buffer *b, PyObject *row, int depth)
{
    Py_ssize_t count = length(row);
    if (put_head(b, 4, (uint64_t)count) < 0)
        return -1;
    for (Py_ssize_t at = 0; at < count; at++)
        if (put_value(b, item(row, at), depth) < 0)
            return -1;
    return 0;
}

static int put_value(Buffer *b, PyObject *value, int depth)
{
    if (value == Py_None)
        return put(b, "\xf6", 1);
    if (PyLong_CheckExact(value)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow) {
            PyErr_SetString(PyExc_OverflowError, "an integer of more than 64 bits");
            return -1;
        }
        if (number == -1 && PyErr_Occurred())
            return -1;
        return number < 0 ? put_head(b, 1, (uint64_t)(-(number + 1))) : put_head(b, 0, (uint64_t)number);
    }
    if (PyFloat_CheckExact(value))
        return put_float(b, PyFloat_AsDouble(value));
    if (PyUnicode_CheckExact(value)) {
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(value, &size);
        if (text == NULL)
            return -1;
        return put_head(b, 3, (uint64_t)size) < 0 ? -1 : put(b, text, (size_t)size);
    }
    if (PyBytes_CheckExact(value)) {
        Py_ssize_t size = PyBytes_Size(value);
        return put_head(b, 2, (uint64_t)size) < 0 ? -1 : put(b, PyBytes_AsString(value), (size_t)size);
    }
    if ((PyList_CheckExact(value) || PyTuple_CheckExact(value)) && depth > 0)
        return put_items(b, value, depth - 1);
    PyErr_Format(PyExc_TypeError, "no value of SQLite: %R", (PyObject *)Py_TYPE(value));
    return -1;
}

/* ---- BLAKE2b with a key and a digest of 8 bytes */

typedef struct {
    uint64_t h[8];
    uint64_t counted; /* bytes that are compressed */
    size_t filled;
    unsigned char block[128];
} Blake;

static const uint64_t IV[8] = {
    0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
    0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u,
};

static const unsigned char SIGMA[12][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
};

static uint64_t little_endian(const unsigned char *from)
{
    uint64_t value = 0;
    for (int at = 7; at >= 0; at--)
        value = value << 8 | from[at];
    return value;
}

static uint64_t turned(uint64_t word, int by)
{
    return word >> by | word << (64 - by);
}

#define MIX(a, b, c, d, x, y)                                                                                                  \
    do {                                                                                                                       \
        v[a] += v[b] + (x);                                                                                                    \
        v[d] = turned(v[d] ^ v[a], 32);                                                                                        \
        v[c] += v[d];                                                                                                          \
        v[b] = turned(v[b] ^ v[c], 24);                                                                                        \
        v[a] += v[b] + (y);                                                                                                    \
        v[d] = turned(v[d] ^ v[a], 16);                                                                                        \
        v[c] += v[d];                                                                                                          \
        v[b] = turned(v[b] ^ v[c], 63);                                                                                        \
    } while (0)

static void compress(Blake *state, int last)
{
    uint64_t v[16], m[16];
    for (int at = 0; at < 16; at++)
        m[at] = little_endian(state->block + 8 * at);
    for (int at = 0; at < 8; at++) {
        v[at] = state->h[at];
        v[at + 8] = IV[at];
    }
    v[12] ^= state->counted; /* its upper half is 0: no message has 2^64 bytes */
    if (last)
        v[14] = ~v[14];
    for (int round = 0; round < 12; round++) {
        const unsigned char *s = SIGMA[round];
        MIX(0, 4, 8, 12, m[s[0]], m[s[1]]);
        MIX(1, 5, 9, 13, m[s[2]], m[s[3]]);
        MIX(2, 6, 10, 14, m[s[4]], m[s[5]]);
        MIX(3, 7, 11, 15, m[s[6]], m[s[7]]);
        MIX(0, 5, 10, 15, m[s[8]], m[s[9]]);
        MIX(1, 6, 11, 12, m[s[10]], m[s[11]]);
        MIX(2, 7, 8, 13, m[s[12]], m[s[13]]);
        MIX(3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int at = 0; at < 8; at++)
        state->h[at] ^= v[at] ^ v[at + 8];
}

static void update(Blake *state, const void *data, size_t size)
{
    const unsigned char *from = data;
    while (size > 0) {
        if (state->filled == sizeof state->block) { /* the last block waits for the end, which marks it */
            state->counted += sizeof state->block;
            compress(state, 0);
            state->filled = 0;
        }
        size_t part = sizeof state->block - state->filled;
        if (part > size)
            part = size;
        memcpy(state->block + state->filled, from, part);
        state->filled += part;
        from += part;
        size -= part;
    }
}

static int64_t finish(Blake *state)
{
    uint64_t word, digest = 0;
    state->counted += state->filled;
    memset(state->block + state->filled, 0, sizeof state->block - state->filled);
    compress(state, 1);
    word = state->h[0];
    for (int at = 0; at < 8; at++, word >>= 8) /* the digest's bytes, as a big-endian number */
        digest = digest << 8 | (word & 0xff);
    return (int64_t)digest;
}

/* ---- the module */

static const char CAPSULE[] = "mycomesh.prefix";

static void free_prefix(PyObject *capsule)
{
    PyMem_Free(PyCapsule_GetPointer(capsule, CAPSULE));
}

static PyObject *prefix(PyObject *module, PyObject *args)
{
    const char *key, *person, *data;
    Py_ssize_t key_size, person_size, size;
    unsigned char padded[128] = {0}, salt[16] = {0};
    (void)module;
    if (!PyArg_ParseTuple(args, "y#y#y#", &key, &key_size, &person, &person_size, &data, &size))
        return NULL;
    if (key_size < 1 || key_size > 64 || person_size > 16) {
        PyErr_SetString(PyExc_ValueError, "a key has 1 to 64 bytes, a person up to 16");
        return NULL;
    }
    Blake *state = PyMem_Malloc(sizeof *state);
    if (state == NULL)
        return PyErr_NoMemory();
    memcpy(state->h, IV, sizeof IV);
    memcpy(salt, person, (size_t)person_size);
    state->h[0] ^= 0x01010000u ^ (uint64_t)key_size << 8 ^ 8u; /* fanout 1, depth 1 */
    state->h[6] ^= little_endian(salt);
    state->h[7] ^= little_endian(salt + 8);
    state->counted = 0;
    state->filled = 0;
    memcpy(padded, key, (size_t)key_size);
    update(state, padded, sizeof padded);
    update(state, data, (size_t)size);
    PyObject *capsule = PyCapsule_New(state, CAPSULE, free_prefix);
    if (capsule == NULL)
        PyMem_Free(state);
    return capsule;
}

static PyObject *digests(PyObject *module, PyObject *args)
{
    PyObject *capsule, *given[3], *columns[3] = {NULL, NULL, NULL}, *found = NULL;
    Buffer head = {NULL, 0, 0};
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOO", &capsule, &given[0], &given[1], &given[2]))
        return NULL;
    const Blake *start = PyCapsule_GetPointer(capsule, CAPSULE);
    if (start == NULL)
        return NULL;
    int named = given[1] != Py_None;
    for (int at = 0; at < 3; at++) {
        if (at == 1 && !named)
            continue;
        columns[at] = PySequence_Fast(given[at], "expected a sequence");
        if (columns[at] == NULL)
            goto done;
        if (length(columns[at]) != length(columns[0])) {
            PyErr_SetString(PyExc_ValueError, "the columns differ in length");
            goto done;
        }
    }
    Py_ssize_t count = length(columns[0]);
    found = PyList_New(count);
    for (Py_ssize_t at = 0; found != NULL && at < count; at++) {
        Blake state = *start;
        unsigned char stamp[8];
        PyObject *row = item(columns[2], at), *digest = NULL;
        long long hlc = PyLong_AsLongLong(item(columns[0], at));
        head.size = 0;
        if (!(hlc == -1 && PyErr_Occurred()) && put_value(&head, named ? item(columns[1], at) : Py_None, 1) == 0) {
            if (PyBytes_CheckExact(row)) {
                big_endian(stamp, (uint64_t)hlc, 8);
                update(&state, stamp, sizeof stamp);
                update(&state, head.data, head.size);
                update(&state, PyBytes_AsString(row), (size_t)PyBytes_Size(row));
                digest = PyLong_FromLongLong(finish(&state));
            } else {
                PyErr_SetString(PyExc_TypeError, "expected encoded rows");
            }
        }
        if (digest == NULL)
            Py_CLEAR(found);
        else
            PyList_SetItem(found, at, digest);
    }
done:
    PyMem_Free(head.data);
    for (int at = 0; at < 3; at++)
        Py_XDECREF(columns[at]);
    return found;
}

static PyObject *encoded_row(Buffer *buffer, PyObject *row)
{
    buffer->size = 0;
    if (!PyList_CheckExact(row) && !PyTuple_CheckExact(row)) {
        PyErr_SetString(PyExc_TypeError, "a row is a list or a tuple");
        return NULL;
    }
    if (put_items(buffer, row, 1) < 0)
        return NULL;
    return PyBytes_FromStringAndSize((char *)buffer->data, (Py_ssize_t)buffer->size);
}

static PyObject *encode_row(PyObject *module, PyObject *row)
{
    Buffer buffer = {NULL, 0, 0};
    PyObject *encoded = encoded_row(&buffer, row);
    (void)module;
    PyMem_Free(buffer.data);
    return encoded;
}

static PyObject *encode_rows(PyObject *module, PyObject *given)
{
    PyObject *rows = PySequence_Fast(given, "expected a sequence of rows");
    Buffer buffer = {NULL, 0, 0};
    (void)module;
    if (rows == NULL)
        return NULL;
    Py_ssize_t count = length(rows);
    PyObject *found = PyList_New(count);
    for (Py_ssize_t at = 0; found != NULL && at < count; at++) {
        PyObject *encoded = encoded_row(&buffer, item(rows, at));
        if (encoded == NULL)
            Py_CLEAR(found);
        else
            PyList_SetItem(found, at, encoded);
    }
    PyMem_Free(buffer.data);
    Py_DECREF(rows);
    return found;
}

static PyObject *sum_halves(PyObject *module, PyObject *given)
{
    uint64_t low = 0, high = 0;
    PyObject *numbers = PySequence_Fast(given, "expected a sequence of digests");
    (void)module;
    if (numbers == NULL)
        return NULL;
    for (Py_ssize_t at = 0, count = length(numbers); at < count; at++) {
        long long number = PyLong_AsLongLong(item(numbers, at));
        if (number == -1 && PyErr_Occurred()) {
            Py_DECREF(numbers);
            return NULL;
        }
        low += (uint64_t)number & 0xffffffffu;
        high += (uint64_t)number >> 32;
    }
    Py_DECREF(numbers);
    return Py_BuildValue("KK", (unsigned long long)low, (unsigned long long)high);
}

static PyMethodDef METHODS[] = {
    {"prefix", prefix, METH_VARARGS, "Return the hash state after a key, a personalization and the first data."},
    {"digests", digests, METH_VARARGS, "Return the digest of each (clock, key, encoded row) behind a prefix."},
    {"encode_row", encode_row, METH_O, "Return a row as a CBOR array."},
    {"encode_rows", encode_rows, METH_O, "Return each row as a CBOR array."},
    {"sum_halves", sum_halves, METH_O, "Return the sums of the lower and of the upper 32 bits of digests."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_rows", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__rows(void)
{
    PyObject *module = PyModule_Create(&MODULE);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", 1) < 0) /* row_codec.py has the same */
        Py_CLEAR(module);
    return module;
}
