/* Values to CBOR and back: docs/internals/encoding.md. Common types are handled here, rare ones in ipcctl._types. */
#include "ipcctl.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Lists up to this length are allocated as announced; longer ones grow with what arrives. */
#define TRUSTED_LENGTH 1024

/* Hashes of numbers are known to everybody. Keys that are chosen to have one hash are compared with all others that
 * have it: 400,000 of them would hold up Python for many minutes. */
#define COLLISIONS_MAX 64

/* An error while it is collected: its place is noted from the inside out as the calls return. */
struct trouble {
	const char *code; /* NULL while a Python exception, or nothing, is set */
	char text[96];
	PyObject *detail; /* instead of text */
	PyObject *parts;
};

static int fail(struct trouble *t, const char *code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(t->text, sizeof t->text, format, args);
	va_end(args);
	t->code = code;
	return -1;
}

/* One step of the place. An index is an int; a key stands in a tuple. */
static void note(struct trouble *t, PyObject *part)
{
	if (t->code != NULL && part != NULL) {
		if (t->parts == NULL)
			t->parts = PyList_New(0);
		if (t->parts != NULL && PyList_Append(t->parts, part) == 0) {
			Py_DECREF(part);
			return;
		}
	}
	if (t->code != NULL)
		t->code = NULL; /* out of memory: that exception is set and counts */
	Py_XDECREF(part);
}

static void note_index(struct trouble *t, Py_ssize_t index)
{
	if (t->code != NULL)
		note(t, PyLong_FromSsize_t(index));
}

static void note_key(struct trouble *t, PyObject *key)
{
	if (t->code != NULL)
		note(t, PyTuple_Pack(1, key));
}

/* Turns the Refused of a helper into trouble; other exceptions are the user's and pass. */
static int refused(struct trouble *t, struct ipc_state *state, const char *code)
{
	if (!PyErr_ExceptionMatches(state->refused))
		return -1;
	PyObject *type, *value, *traceback;
	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	PyObject *detail = value == NULL ? NULL : PyObject_Str(value);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
	if (detail == NULL)
		return -1;
	Py_XDECREF(t->detail);
	t->detail = detail;
	t->code = code;
	return -1;
}

/* Raises what is in t, if anything, and releases it. */
static void settle(struct trouble *t, struct ipc_state *state, PyObject *kind)
{
	if (t->code != NULL) {
		PyObject *parts = t->parts != NULL ? Py_NewRef(t->parts) : PyList_New(0);
		PyObject *detail = t->detail != NULL ? Py_NewRef(t->detail) : PyUnicode_FromString(t->text);
		PyObject *error = NULL;
		if (parts != NULL && detail != NULL)
			error = PyObject_CallFunction(state->failure, "OsOO", kind, t->code, parts, detail);
		if (error != NULL)
			PyErr_SetObject(kind, error);
		Py_XDECREF(error);
		Py_XDECREF(parts);
		Py_XDECREF(detail);
	}
	Py_CLEAR(t->parts);
	Py_CLEAR(t->detail);
}

/* ---- encoding ---- */

/* Each level is usually lowered once; a value that is lowered to itself would overflow the stack. */
#define FORMS_MAX (2 * IPC_VALUE_DEPTH_MAX)

struct encoder {
	struct ipc_state *state;
	unsigned char *bytes; /* small, or from PyMem_Malloc */
	size_t length, capacity, limit;
	int depth;
	int forms; /* nested lowerings: a lowered form may have to be lowered again */
	struct trouble trouble;
	PyObject *ancestors[IPC_VALUE_DEPTH_MAX]; /* borrowed: the callers hold them */
	unsigned char small[1024];
};

static int encode(struct encoder *e, PyObject *value, PyObject *identity);

static int grow(struct encoder *e, size_t more)
{
	if (more > (size_t)PY_SSIZE_T_MAX - e->length) {
		PyErr_NoMemory();
		return -1;
	}
	size_t need = e->length + more, capacity = e->capacity;
	while (capacity < need)
		capacity = capacity > (size_t)PY_SSIZE_T_MAX / 2 ? (size_t)PY_SSIZE_T_MAX : capacity * 2;
	unsigned char *bytes;
	if (e->bytes == e->small) {
		bytes = PyMem_Malloc(capacity);
		if (bytes != NULL)
			memcpy(bytes, e->small, e->length);
	} else {
		bytes = PyMem_Realloc(e->bytes, capacity);
	}
	if (bytes == NULL) {
		PyErr_NoMemory();
		return -1;
	}
	e->bytes = bytes;
	e->capacity = capacity;
	return 0;
}

/* Makes room for that many more bytes, within the caller's limit. */
static inline int room(struct encoder *e, size_t more)
{
	if (more > e->limit - e->length)
		return fail(&e->trouble, "SIZE", "more than %zu bytes", e->limit);
	return more <= e->capacity - e->length ? 0 : grow(e, more);
}

static inline size_t head_size(uint64_t n)
{
	return n < 24 ? 1 : n <= 0xff ? 2 : n <= 0xffff ? 3 : n <= 0xffffffff ? 5 : 9;
}

static inline void put_big_endian(unsigned char *to, uint64_t n, int size)
{
	for (int i = size - 1; i >= 0; i--, n >>= 8)
		to[i] = (unsigned char)n;
}

/* Writes where room() was called before. */
static inline void put_head(struct encoder *e, unsigned major, uint64_t n)
{
	unsigned char *to = e->bytes + e->length;
	size_t size = head_size(n);
	if (size == 1) {
		to[0] = (unsigned char)(major << 5 | n);
	} else {
		to[0] = (unsigned char)(major << 5 | (size == 2 ? 24 : size == 3 ? 25 : size == 5 ? 26 : 27));
		put_big_endian(to + 1, n, (int)size - 1);
	}
	e->length += size;
}

static inline int head(struct encoder *e, unsigned major, uint64_t n)
{
	if (room(e, head_size(n)) < 0)
		return -1;
	put_head(e, major, n);
	return 0;
}

static int encode_raw(struct encoder *e, unsigned major, const void *from, Py_ssize_t size)
{
	if (room(e, head_size((uint64_t)size) + (size_t)size) < 0)
		return -1;
	put_head(e, major, (uint64_t)size);
	if (size > 0)
		memcpy(e->bytes + e->length, from, (size_t)size);
	e->length += (size_t)size;
	return 0;
}

static int encode_text(struct encoder *e, PyObject *text)
{
	Py_ssize_t size;
	const char *utf8 = PyUnicode_AsUTF8AndSize(text, &size);
	if (utf8 == NULL) {
		if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
			return -1;
		PyErr_Clear();
		return fail(&e->trouble, "TYPE", "cannot send a lone surrogate in a str");
	}
	return encode_raw(e, 3, utf8, size);
}

static int encode_big(struct encoder *e, PyObject *number, int negative)
{
	PyObject *bytes = PyObject_CallFunctionObjArgs(e->state->big_bytes, number, NULL);
	if (bytes == NULL)
		return -1;
	int rc = head(e, 6, negative ? 3 : 2);
	if (rc == 0)
		rc = encode_raw(e, 2, PyBytes_AsString(bytes), PyBytes_Size(bytes));
	Py_DECREF(bytes);
	return rc;
}

static int encode_int(struct encoder *e, PyObject *number)
{
	int overflow;
	long long n = PyLong_AsLongLongAndOverflow(number, &overflow);
	if (overflow == 0)
		return n >= 0 ? head(e, 0, (uint64_t)n) : head(e, 1, ~(uint64_t)n);
	/* -1 - n is ~n, so both signs use the same unsigned code. */
	PyObject *magnitude = overflow > 0 ? Py_NewRef(number) : PyNumber_Invert(number);
	if (magnitude == NULL)
		return -1;
	unsigned long long u = PyLong_AsUnsignedLongLong(magnitude);
	int rc;
	if (u == (unsigned long long)-1 && PyErr_Occurred()) {
		PyErr_Clear();
		rc = encode_big(e, magnitude, overflow < 0);
	} else {
		rc = head(e, overflow > 0 ? 0 : 1, u);
	}
	Py_DECREF(magnitude);
	return rc;
}

static int encode_float(struct encoder *e, double number)
{
	uint64_t bits;
	memcpy(&bits, &number, sizeof bits);
	if (room(e, 9) < 0)
		return -1;
	e->bytes[e->length] = 0xfb;
	put_big_endian(e->bytes + e->length + 1, bits, 8);
	e->length += 9;
	return 0;
}

static int enter(struct encoder *e, PyObject *identity)
{
	for (int i = 0; i < e->depth; i++)
		if (e->ancestors[i] == identity)
			return fail(&e->trouble, "CYCLE", "cannot send a container that contains itself");
	if (e->depth == IPC_VALUE_DEPTH_MAX)
		return fail(&e->trouble, "DEPTH", "more than %d levels", IPC_VALUE_DEPTH_MAX);
	e->ancestors[e->depth++] = identity;
	return 0;
}

static int changed(struct encoder *e)
{
	return fail(&e->trouble, "TYPE", "changed while it was sent");
}

/* Helpers may run the user's code, which may change the container: sizes are read again each time. */
static int encode_list(struct encoder *e, PyObject *list, PyObject *identity)
{
	Py_ssize_t size = PyList_Size(list);
	if (enter(e, identity) < 0 || head(e, 4, (uint64_t)size) < 0)
		return -1;
	for (Py_ssize_t i = 0; i < size; i++) {
		if (i >= PyList_Size(list))
			return changed(e);
		PyObject *item = Py_NewRef(PyList_GetItem(list, i));
		int rc = encode(e, item, item);
		Py_DECREF(item);
		if (rc < 0) {
			note_index(&e->trouble, i);
			return -1;
		}
	}
	e->depth--;
	return PyList_Size(list) == size ? 0 : changed(e);
}

static int encode_tuple(struct encoder *e, PyObject *tuple, PyObject *identity)
{
	Py_ssize_t size = PyTuple_Size(tuple);
	if (enter(e, identity) < 0 || head(e, 4, (uint64_t)size) < 0)
		return -1;
	for (Py_ssize_t i = 0; i < size; i++) {
		PyObject *item = PyTuple_GetItem(tuple, i);
		if (encode(e, item, item) < 0) {
			note_index(&e->trouble, i);
			return -1;
		}
	}
	e->depth--;
	return 0;
}

static int encode_dict(struct encoder *e, PyObject *dict, PyObject *identity)
{
	Py_ssize_t size = PyDict_Size(dict), at = 0, done = 0;
	PyObject *key, *value;
	int texts = 1;
	while (texts && PyDict_Next(dict, &at, &key, NULL))
		texts = PyUnicode_Check(key);
	if (enter(e, identity) < 0 || (!texts && head(e, 6, 259) < 0) || head(e, 5, (uint64_t)size) < 0)
		return -1;
	at = 0;
	while (PyDict_Next(dict, &at, &key, &value)) {
		if (done++ == size)
			return changed(e);
		Py_INCREF(key);
		Py_INCREF(value);
		int rc;
		if (!texts)
			rc = encode(e, key, key);
		else
			rc = PyUnicode_Check(key) ? encode_text(e, key) : changed(e);
		if (rc == 0)
			rc = encode(e, value, value);
		if (rc < 0)
			note_key(&e->trouble, key);
		Py_DECREF(key);
		Py_DECREF(value);
		if (rc < 0)
			return -1;
	}
	e->depth--;
	return done == size && PyDict_Size(dict) == size ? 0 : changed(e);
}

static int encode_set(struct encoder *e, PyObject *set, PyObject *identity)
{
	Py_ssize_t size = PySet_Size(set), i = 0;
	if (enter(e, identity) < 0 || head(e, 6, 258) < 0 || head(e, 4, (uint64_t)size) < 0)
		return -1;
	PyObject *iterator = PyObject_GetIter(set), *item;
	if (iterator == NULL)
		return -1;
	while ((item = PyIter_Next(iterator)) != NULL) {
		int rc = i == size ? changed(e) : encode(e, item, item);
		Py_DECREF(item);
		if (rc < 0) {
			note_index(&e->trouble, i);
			Py_DECREF(iterator);
			return -1;
		}
		i++;
	}
	Py_DECREF(iterator);
	if (PyErr_Occurred()) {
		if (!PyErr_ExceptionMatches(PyExc_RuntimeError))
			return -1;
		PyErr_Clear();
		return changed(e);
	}
	e->depth--;
	return i == size ? 0 : changed(e);
}

/* The result of lower(), (tag or None, form): a memoryview in it stands for its bytes. */
static int encode_lowered(struct encoder *e, PyObject *value, PyObject *identity)
{
	if (e->forms == FORMS_MAX)
		return fail(&e->trouble, "DEPTH", "more than %d levels", IPC_VALUE_DEPTH_MAX);
	PyObject *pair = PyObject_CallFunctionObjArgs(e->state->lower, value, NULL);
	if (pair == NULL)
		return refused(&e->trouble, e->state, "TYPE");
	PyObject *tag = PyTuple_GetItem(pair, 0), *form = PyTuple_GetItem(pair, 1);
	int rc = tag == NULL || form == NULL ? -1 : 0;
	if (rc == 0 && tag != Py_None)
		rc = head(e, 6, PyLong_AsUnsignedLong(tag));
	if (rc == 0 && PyObject_TypeCheck(form, &PyMemoryView_Type)) {
		Py_buffer view;
		rc = PyObject_GetBuffer(form, &view, PyBUF_SIMPLE);
		if (rc == 0) {
			rc = encode_raw(e, 2, view.buf, view.len);
			PyBuffer_Release(&view);
		}
	} else if (rc == 0) {
		e->forms++;
		rc = encode(e, form, identity);
		e->forms--;
	}
	Py_DECREF(pair);
	return rc;
}

/* identity detects cycles: the user's object, if value is a lowered form of it. */
static int encode(struct encoder *e, PyObject *value, PyObject *identity)
{
	if (PyUnicode_CheckExact(value))
		return encode_text(e, value);
	if (PyLong_CheckExact(value))
		return encode_int(e, value);
	if (value == Py_None || value == Py_True || value == Py_False || value == e->state->undefined) {
		if (room(e, 1) < 0)
			return -1;
		e->bytes[e->length++] = value == Py_None    ? 0xf6
					: value == Py_True  ? 0xf5
					: value == Py_False ? 0xf4
							    : 0xf7;
		return 0;
	}
	if (PyFloat_CheckExact(value))
		return encode_float(e, PyFloat_AsDouble(value));
	if (PyList_CheckExact(value))
		return encode_list(e, value, identity);
	if (PyDict_CheckExact(value))
		return encode_dict(e, value, identity);
	if (PyTuple_CheckExact(value))
		return encode_tuple(e, value, identity);
	if (PyBytes_CheckExact(value))
		return encode_raw(e, 2, PyBytes_AsString(value), PyBytes_Size(value));
	if (PyByteArray_CheckExact(value))
		return encode_raw(e, 2, PyByteArray_AsString(value), PyByteArray_Size(value));
	if (Py_IS_TYPE(value, &PySet_Type) || Py_IS_TYPE(value, &PyFrozenSet_Type))
		return encode_set(e, value, identity);
	return encode_lowered(e, value, identity);
}

PyObject *ipc_dumps(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	PyObject *value = count > 0 ? args[0] : NULL, *size_max = count > 1 ? args[1] : NULL;
	Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
	int wrong = count > 2;
	for (Py_ssize_t i = 0; i < named && !wrong; i++) {
		PyObject *name = PyTuple_GetItem(names, i);
		PyObject **to = NULL;
		if (PyUnicode_CompareWithASCIIString(name, "value") == 0)
			to = &value;
		else if (PyUnicode_CompareWithASCIIString(name, "size_max") == 0)
			to = &size_max;
		wrong = to == NULL || *to != NULL;
		if (!wrong)
			*to = args[count + i];
	}
	if (wrong || value == NULL) {
		PyErr_SetString(PyExc_TypeError, "dumps(value, size_max=None)");
		return NULL;
	}
	size_t limit = (size_t)PY_SSIZE_T_MAX;
	if (size_max != NULL && size_max != Py_None) {
		limit = PyLong_AsSize_t(size_max);
		if (limit == (size_t)-1 && PyErr_Occurred())
			return NULL;
	}
	struct encoder e;
	e.state = PyModule_GetState(module);
	e.bytes = e.small;
	e.length = 0;
	e.capacity = sizeof e.small;
	e.limit = limit;
	e.depth = e.forms = 0;
	e.trouble.code = NULL;
	e.trouble.detail = e.trouble.parts = NULL;
	PyObject *result = NULL;
	if (encode(&e, value, value) == 0)
		result = PyBytes_FromStringAndSize((char *)e.bytes, (Py_ssize_t)e.length);
	else
		settle(&e.trouble, e.state, e.state->encode_error);
	if (e.bytes != e.small)
		PyMem_Free(e.bytes);
	return result;
}

/* ---- decoding ---- */

struct decoder {
	struct ipc_state *state;
	const unsigned char *start, *at, *end;
	int depth;
	struct trouble trouble;
};

struct head {
	unsigned major, info;
	uint64_t n;
	size_t at;
};

#define ULL(n) ((unsigned long long)(n))

/* keys: members of a set and keys must be hashable, so arrays become tuples there and sets frozensets. */
static PyObject *decode(struct decoder *d, int keys);

static inline size_t left(const struct decoder *d)
{
	return (size_t)(d->end - d->at);
}

static int truncated(struct decoder *d)
{
	return fail(&d->trouble, "MALFORMED", "truncated at byte %zu", (size_t)(d->end - d->start));
}

static inline int read_head(struct decoder *d, struct head *h)
{
	if (d->at == d->end)
		return truncated(d);
	h->at = (size_t)(d->at - d->start);
	unsigned first = *d->at++;
	h->major = first >> 5;
	h->info = first & 31;
	h->n = h->info;
	if (h->info < 24)
		return 0;
	if (h->info > 27)
		return fail(&d->trouble, "MALFORMED", "a reserved or indefinite length at byte %zu", h->at);
	size_t size = (size_t)1 << (h->info - 24);
	if (left(d) < size)
		return truncated(d);
	h->n = 0;
	for (size_t i = 0; i < size; i++)
		h->n = h->n << 8 | *d->at++;
	return 0;
}

static int too_long(struct decoder *d, const struct head *h)
{
	return fail(&d->trouble, "SIZE", "a length of %llu at byte %zu, beyond the end of the data", ULL(h->n), h->at);
}

/* Every item takes at least one byte, so a count can be checked before anything is allocated. */
static inline int open_container(struct decoder *d, const struct head *h, size_t least)
{
	if (d->depth == IPC_VALUE_DEPTH_MAX)
		return fail(&d->trouble, "DEPTH", "more than %d levels", IPC_VALUE_DEPTH_MAX);
	if (h->n > left(d) / least)
		return too_long(d, h);
	d->depth++;
	return 0;
}

static PyObject *decode_text(struct decoder *d, const struct head *h)
{
	if (h->n > left(d)) {
		too_long(d, h);
		return NULL;
	}
	PyObject *text = PyUnicode_DecodeUTF8((const char *)d->at, (Py_ssize_t)h->n, NULL);
	if (text == NULL) {
		if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
			PyErr_Clear();
			fail(&d->trouble, "MALFORMED", "invalid UTF-8 at byte %zu", h->at);
		}
		return NULL;
	}
	d->at += h->n;
	return text;
}

static PyObject *decode_array(struct decoder *d, const struct head *h, int keys)
{
	if (open_container(d, h, 1) < 0)
		return NULL;
	Py_ssize_t size = (Py_ssize_t)h->n;
	int told = size <= TRUSTED_LENGTH;
	PyObject *list = PyList_New(told ? size : 0);
	if (list == NULL)
		return NULL;
	for (Py_ssize_t i = 0; i < size; i++) {
		PyObject *item = decode(d, keys);
		if (item == NULL) {
			note_index(&d->trouble, i);
			goto failed;
		}
		if (told) {
			PyList_SetItem(list, i, item);
		} else {
			int rc = PyList_Append(list, item);
			Py_DECREF(item);
			if (rc < 0)
				goto failed;
		}
	}
	d->depth--;
	if (keys) {
		PyObject *tuple = PyList_AsTuple(list);
		Py_DECREF(list);
		return tuple;
	}
	return list;
failed:
	Py_DECREF(list);
	return NULL;
}

/* A TypeError or ValueError of hashing is the other side's fault. */
static void unhashable(struct decoder *d)
{
	if (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError)) {
		PyErr_Clear();
		fail(&d->trouble, "MALFORMED", "a key or an element of a set that Python cannot hash");
	}
}

/* How many keys of one container have about the same hash; all zero before the first. */
struct crowd {
	unsigned char *counts; /* from PyMem_Calloc */
	int bits;
};

/* @param n how many keys there will be */
static int join(struct decoder *d, struct crowd *c, uint64_t n, PyObject *key)
{
	if (n <= COLLISIONS_MAX || PyUnicode_Check(key)) /* hashes of text are secret */
		return 0;
	if (c->counts == NULL) {
		for (c->bits = 1; n >> c->bits != 0;)
			c->bits++;
		c->counts = PyMem_Calloc((size_t)1 << c->bits, 1);
		if (c->counts == NULL) {
			PyErr_NoMemory();
			return -1;
		}
	}
	Py_hash_t hash = PyObject_Hash(key);
	if (hash == -1) {
		unhashable(d);
		return -1;
	}
	uint64_t mixed = (uint64_t)hash * 0x9E3779B97F4A7C15u;
	mixed = (mixed ^ mixed >> 32) * 0x9E3779B97F4A7C15u;
	if (++c->counts[mixed >> (64 - c->bits)] <= COLLISIONS_MAX)
		return 0;
	return fail(&d->trouble, "MALFORMED", "more than %d keys with one hash", COLLISIONS_MAX);
}

static PyObject *decode_map(struct decoder *d, const struct head *h, int any_key)
{
	if (open_container(d, h, 2) < 0)
		return NULL;
	PyObject *dict = PyDict_New();
	if (dict == NULL)
		return NULL;
	struct crowd crowd = { 0 };
	for (uint64_t i = 0; i < h->n; i++) {
		PyObject *key = NULL, *value;
		if (any_key) {
			key = decode(d, 1);
			if (key != NULL && join(d, &crowd, h->n, key) < 0)
				Py_CLEAR(key);
		} else {
			struct head k;
			if (read_head(d, &k) == 0) {
				if (k.major == 3)
					key = decode_text(d, &k);
				else
					fail(&d->trouble, "MALFORMED", "a key that is not text at byte %zu", k.at);
			}
		}
		if (key == NULL)
			goto failed;
		value = decode(d, 0);
		if (value == NULL) {
			note_key(&d->trouble, key);
			Py_DECREF(key);
			goto failed;
		}
		int rc = PyDict_SetItem(dict, key, value);
		Py_DECREF(key);
		Py_DECREF(value);
		if (rc < 0) {
			unhashable(d);
			goto failed;
		}
	}
	d->depth--;
	PyMem_Free(crowd.counts);
	return dict;
failed:
	PyMem_Free(crowd.counts);
	Py_DECREF(dict);
	return NULL;
}

static PyObject *decode_set(struct decoder *d, const struct head *h, int keys)
{
	if (open_container(d, h, 1) < 0)
		return NULL;
	PyObject *set = PySet_New(NULL);
	if (set == NULL)
		return NULL;
	struct crowd crowd = { 0 };
	for (uint64_t i = 0; i < h->n; i++) {
		PyObject *item = decode(d, 1);
		int rc = -1;
		if (item != NULL) {
			rc = join(d, &crowd, h->n, item);
			if (rc == 0 && (rc = PySet_Add(set, item)) < 0)
				unhashable(d);
			Py_DECREF(item);
		}
		if (rc < 0) {
			note_index(&d->trouble, (Py_ssize_t)i);
			PyMem_Free(crowd.counts);
			Py_DECREF(set);
			return NULL;
		}
	}
	PyMem_Free(crowd.counts);
	d->depth--;
	if (keys) {
		PyObject *frozen = PyFrozenSet_New(set);
		Py_DECREF(set);
		return frozen;
	}
	return set;
}

static PyObject *decode_float(const struct head *h)
{
	double number;
	if (h->info == 27) {
		memcpy(&number, &h->n, sizeof number);
	} else if (h->info == 26) {
		uint32_t bits = (uint32_t)h->n;
		float single;
		memcpy(&single, &bits, sizeof single);
		number = single == single ? single : (double)__builtin_nanf("");
	} else {
		unsigned exponent = h->n >> 10 & 31, fraction = h->n & 1023;
		if (exponent == 31)
			number = fraction ? __builtin_nan("") : __builtin_inf();
		else if (exponent == 0)
			number = fraction * 0x1p-24;
		else
			number = (1024 + fraction) * 0x1p-25 * (double)(1u << exponent);
		if (h->n >> 15 && number == number)
			number = -number;
	}
	return PyFloat_FromDouble(number);
}

static PyObject *revived(struct decoder *d, PyObject *value)
{
	if (value == NULL)
		refused(&d->trouble, d->state, "MALFORMED");
	return value;
}

/* The bytes of a typed array, copied: they outlive the buffer and may be modified. */
static PyObject *decode_raw(struct decoder *d, const struct head *h)
{
	if (h->n > left(d)) {
		too_long(d, h);
		return NULL;
	}
	PyObject *raw = PyByteArray_FromStringAndSize((const char *)d->at, (Py_ssize_t)h->n);
	if (raw != NULL)
		d->at += h->n;
	return raw;
}

/* The major type that must follow a tag: 8 is a number, -1 an unknown tag. Equal to TAG_CONTENT in ipcctl._types. */
static int content_of(uint64_t tag)
{
	switch (tag) {
	case 0:
	case 1004: return 3;
	case 1: return 8;
	case 27:
	case 40:
	case 258: return 4;
	case 259: return 5;
	case 2:
	case 3:
	case 37:
	case 68:
	case 69:
	case 70:
	case 71:
	case 72:
	case 77:
	case 78:
	case 79:
	case 84:
	case 85:
	case 86: return 2;
	default: return -1;
	}
}

static int misplaced(struct decoder *d, const struct head *tag)
{
	return fail(
		&d->trouble, "MALFORMED", "tag %llu on a value of the wrong type, at byte %zu", ULL(tag->n), tag->at);
}

static int is_typed(uint64_t tag)
{
	return tag == 64 || (tag >= 68 && content_of(tag) == 2);
}

static PyObject *decode_nd(struct decoder *d, const struct head *tag, const struct head *pair)
{
	struct head lengths = { 0 }, typed = { 0 }, data = { 0 }, length = { 0 };
	if (open_container(d, pair, 1) < 0)
		return NULL;
	if (pair->n != 2) {
		misplaced(d, tag);
		return NULL;
	}
	if (read_head(d, &lengths) < 0)
		return NULL;
	if (lengths.major != 4) {
		misplaced(d, tag);
		return NULL;
	}
	if (open_container(d, &lengths, 1) < 0)
		return NULL;
	PyObject *shape = PyList_New(0);
	if (shape == NULL)
		return NULL;
	for (uint64_t i = 0; i < lengths.n; i++) {
		if (read_head(d, &length) < 0)
			goto failed;
		if (length.major != 0) {
			misplaced(d, tag);
			goto failed;
		}
		PyObject *number = PyLong_FromUnsignedLongLong(length.n);
		int rc = number == NULL ? -1 : PyList_Append(shape, number);
		Py_XDECREF(number);
		if (rc < 0)
			goto failed;
	}
	if (read_head(d, &typed) < 0)
		goto failed;
	if (typed.major != 6 || !is_typed(typed.n)) {
		misplaced(d, tag);
		goto failed;
	}
	if (read_head(d, &data) < 0)
		goto failed;
	if (data.major != 2) {
		misplaced(d, &typed);
		goto failed;
	}
	PyObject *raw = decode_raw(d, &data);
	if (raw == NULL)
		goto failed;
	d->depth -= 2;
	PyObject *value = revived(d, PyObject_CallFunction(d->state->revive_array, "OKO", shape, ULL(typed.n), raw));
	Py_DECREF(raw);
	Py_DECREF(shape);
	return value;
failed:
	Py_DECREF(shape);
	return NULL;
}

static PyObject *decode_tagged(struct decoder *d, const struct head *tag, int keys)
{
	int content = content_of(tag->n);
	if (content < 0) {
		fail(&d->trouble, "MALFORMED", "unknown tag %llu at byte %zu", ULL(tag->n), tag->at);
		return NULL;
	}
	if (d->at == d->end) {
		truncated(d);
		return NULL;
	}
	/* Checked before going on: a chain of tags must not evade the limit on depth. */
	int major = *d->at >> 5;
	if (content == 8 ? major != 0 && major != 1 && major != 7 : major != content) {
		misplaced(d, tag);
		return NULL;
	}
	PyObject *inner;
	struct head h;
	if (tag->n >= 40 && tag->n != 1004) {
		if (read_head(d, &h) < 0)
			return NULL;
		if (tag->n == 258)
			return decode_set(d, &h, keys);
		if (tag->n == 259)
			return decode_map(d, &h, 1);
		if (tag->n == 40)
			return decode_nd(d, tag, &h);
		inner = decode_raw(d, &h);
	} else {
		inner = decode(d, 0);
	}
	if (inner == NULL)
		return NULL;
	PyObject *value = revived(d, PyObject_CallFunction(d->state->revive, "KO", ULL(tag->n), inner));
	Py_DECREF(inner);
	return value;
}

static PyObject *decode(struct decoder *d, int keys)
{
	struct head h;
	if (read_head(d, &h) < 0)
		return NULL;
	switch (h.major) {
	case 0: return h.n <= INT64_MAX ? PyLong_FromLongLong((long long)h.n) : PyLong_FromUnsignedLongLong(h.n);
	case 1: {
		if (h.n <= INT64_MAX)
			return PyLong_FromLongLong(-1 - (long long)h.n);
		PyObject *magnitude = PyLong_FromUnsignedLongLong(h.n);
		PyObject *number = magnitude == NULL ? NULL : PyNumber_Invert(magnitude);
		Py_XDECREF(magnitude);
		return number;
	}
	case 2: {
		if (h.n > left(d)) {
			too_long(d, &h);
			return NULL;
		}
		PyObject *bytes = PyBytes_FromStringAndSize((const char *)d->at, (Py_ssize_t)h.n);
		if (bytes != NULL)
			d->at += h.n;
		return bytes;
	}
	case 3: return decode_text(d, &h);
	case 4: return decode_array(d, &h, keys);
	case 5: return decode_map(d, &h, 0);
	case 6: return decode_tagged(d, &h, keys);
	default:
		switch (h.info) {
		case 20: Py_RETURN_FALSE;
		case 21: Py_RETURN_TRUE;
		case 22: Py_RETURN_NONE;
		case 23: return Py_NewRef(d->state->undefined);
		case 25:
		case 26:
		case 27: return decode_float(&h);
		default: fail(&d->trouble, "MALFORMED", "a reserved simple value at byte %zu", h.at); return NULL;
		}
	}
}

PyObject *ipc_decode(struct ipc_state *state, const unsigned char *bytes, size_t size)
{
	struct decoder d = { .state = state, .start = bytes, .at = bytes, .end = bytes + size };
	PyObject *value = decode(&d, 0);
	if (value != NULL && d.at != d.end) {
		Py_CLEAR(value);
		fail(&d.trouble, "MALFORMED", "%zu bytes after the value", left(&d));
	}
	if (value == NULL)
		settle(&d.trouble, state, state->decode_error);
	return value;
}

PyObject *ipc_loads(PyObject *module, PyObject *buffer)
{
	Py_buffer view;
	if (PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0)
		return NULL;
	PyObject *value = ipc_decode(PyModule_GetState(module), view.buf, (size_t)view.len);
	PyBuffer_Release(&view);
	return value;
}

/* ---- the usual message and its answer ---- */

/* Heads of one byte. A CALL has its number and four fields, a RESULT its number and two. */
#define ARRAY_OF(count) (4u << 5 | (count))
#define NULL_VALUE (7u << 5 | 22)

static PyObject *parse_args(struct decoder *d)
{
	struct head h = { 0 };
	if (read_head(d, &h) < 0 || h.major != 4 || h.n > 255 || open_container(d, &h, 1) < 0)
		return NULL;
	PyObject *args = PyTuple_New((Py_ssize_t)h.n);
	for (Py_ssize_t i = 0; args != NULL && i < (Py_ssize_t)h.n; i++) {
		PyObject *item = decode(d, 0);
		if (item == NULL || Py_IS_TYPE(item, (PyTypeObject *)d->state->stream_ref)) {
			Py_XDECREF(item);
			Py_CLEAR(args);
		} else {
			PyTuple_SetItem(args, i, item);
		}
	}
	return args;
}

int ipc_parse_call(struct ipc_state *state, const unsigned char *bytes, size_t size, struct ipc_call *call)
{
	if (size < 2 || bytes[0] != ARRAY_OF(5) || bytes[1] != IPC_TO_WORKER_CALL)
		return 0;
	struct decoder d = { .state = state, .start = bytes, .at = bytes + 2, .end = bytes + size, .depth = 1 };
	struct head number = { 0 }, name = { 0 };
	call->name = call->args = NULL;
	if (read_head(&d, &number) == 0 && number.major == 0 && number.n <= INT64_MAX && read_head(&d, &name) == 0
		&& name.major == 3 && (call->name = decode_text(&d, &name)) != NULL
		&& (call->args = parse_args(&d)) != NULL && left(&d) == 1 && *d.at == NULL_VALUE) {
		call->number = number.n;
		return 1;
	}
	/* Whatever is wrong with it, the Python path reports it. */
	Py_CLEAR(call->name);
	Py_CLEAR(call->args);
	Py_CLEAR(d.trouble.parts);
	Py_CLEAR(d.trouble.detail);
	if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_MemoryError))
		PyErr_Clear();
	return PyErr_Occurred() ? -1 : 0;
}

int ipc_encode_result(struct ipc_state *state, uint64_t number, PyObject *value,
	int (*take)(void *context, const unsigned char *bytes, size_t size), void *context)
{
	struct encoder e;
	e.state = state;
	e.bytes = e.small;
	e.length = 0;
	e.capacity = sizeof e.small;
	e.limit = (size_t)PY_SSIZE_T_MAX;
	e.depth = 1;
	e.trouble.code = NULL;
	e.trouble.detail = e.trouble.parts = NULL;
	e.ancestors[0] = NULL;
	e.bytes[e.length++] = ARRAY_OF(3);
	e.bytes[e.length++] = IPC_TO_CLIENT_RESULT;
	int rc = head(&e, 0, number);
	if (rc == 0)
		rc = encode(&e, value, value);
	if (rc == 0)
		rc = take(context, e.bytes, e.length);
	else
		settle(&e.trouble, state, state->encode_error);
	if (e.bytes != e.small)
		PyMem_Free(e.bytes);
	return rc;
}
