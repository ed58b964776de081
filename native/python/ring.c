/* One direction of a channel: a byte ring with one producer and one consumer, in memory shared with a peer that is
 * not trusted. What is read from there is read once and judged; the own position is never read back. */
#include "ipcctl.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rings are little-endian and so must the machine be"
#endif

#define CONTROL_SIZE 192
#define CAPACITY_MIN 4096u
#define CAPACITY_MAX (1u << 30)
#define SPIN_MAX 1e6

/* Each word that the other side writes has a cache line of its own. */
struct control {
	_Alignas(64) uint32_t head;
	_Alignas(64) uint32_t tail;
	_Alignas(64) uint32_t consumer_sleeps;
	uint32_t producer_waits;
};

/* Everything but the mapping is touched with the GIL held only. */
struct ring {
	PyObject_HEAD
	Py_buffer view;
	uint32_t *head, *tail, *consumer_sleeps, *producer_waits;
	unsigned char *data;
	uint32_t capacity;
	uint32_t own;  /* tail of the producer, head of the consumer: published, never read */
	uint32_t peer; /* the other one as last seen: saves the cache miss while it suffices */
	int producer, broken, waits, held;
};

static struct ipc_state *state_of(struct ring *ring)
{
	return PyType_GetModuleState(Py_TYPE((PyObject *)ring));
}

static int is_broken(struct ring *ring, const char *what)
{
	struct ipc_state *state = state_of(ring);
	ring->broken = 1;
	if (state != NULL)
		PyErr_SetString(state->broken_channel, what);
	return -1;
}

static inline int usable(struct ring *ring, int producer)
{
	if (ring->broken)
		return is_broken(ring, "the channel is broken");
	if (ring->producer != producer) {
		PyErr_SetString(PyExc_TypeError, producer ? "only the producer can do this" : "only the consumer can do this");
		return -1;
	}
	return 0;
}

/* Bytes in the ring as the producer knows it, after a fresh look at head. */
static int look_at_head(struct ring *ring, uint32_t *used)
{
	uint32_t head = __atomic_load_n(ring->head, __ATOMIC_ACQUIRE);
	*used = ring->own - head;
	if (*used > ring->capacity || head % 8 != 0)
		return is_broken(ring, "the other side wrote an impossible position");
	ring->peer = head;
	return 0;
}

static int look_at_tail(struct ring *ring, uint32_t *used)
{
	uint32_t tail = __atomic_load_n(ring->tail, __ATOMIC_ACQUIRE);
	*used = tail - ring->own;
	if (*used > ring->capacity || tail % 8 != 0)
		return is_broken(ring, "the other side wrote an impossible position");
	ring->peer = tail;
	return 0;
}

static void copy_in(struct ring *ring, uint32_t position, const void *from, uint32_t size)
{
	uint32_t at = position & (ring->capacity - 1), first = ring->capacity - at;
	if (first > size)
		first = size;
	memcpy(ring->data + at, from, first);
	memcpy(ring->data, (const char *)from + first, size - first);
}

static void copy_out(struct ring *ring, uint32_t position, void *to, uint32_t size)
{
	uint32_t at = position & (ring->capacity - 1), first = ring->capacity - at;
	if (first > size)
		first = size;
	memcpy(to, ring->data + at, first);
	memcpy((char *)to + first, ring->data, size - first);
}

static int send_bytes(struct ring *ring, const void *from, Py_ssize_t size)
{
	if (size > (Py_ssize_t)ring->capacity - 4) {
		PyErr_Format(PyExc_ValueError, "%zd bytes never fit into a ring of %u", size, (unsigned)ring->capacity);
		return -1;
	}
	uint32_t length = (uint32_t)size, frame = (4 + length + 7) & ~7u, used = ring->own - ring->peer;
	if (frame > ring->capacity - used) {
		if (look_at_head(ring, &used) < 0)
			return -1;
		if (frame > ring->capacity - used) {
			/* Said before looking once more: either this look sees the room or the consumer sees the word. */
			__atomic_store_n(ring->producer_waits, 1, __ATOMIC_SEQ_CST);
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			ring->waits = 1;
			if (look_at_head(ring, &used) < 0)
				return -1;
			if (frame > ring->capacity - used)
				return 0;
		}
	}
	if (ring->waits) {
		__atomic_store_n(ring->producer_waits, 0, __ATOMIC_SEQ_CST);
		ring->waits = 0;
	}
	/* Positions are multiples of 8: neither the length nor the last 8 bytes with the padding wrap. */
	static const unsigned char zeros[8];
	uint32_t end = 4 + length;
	copy_in(ring, ring->own, &length, 4);
	copy_in(ring, ring->own + 4, from, length);
	copy_in(ring, ring->own + end, zeros, frame - end);
	ring->own += frame;
	__atomic_store_n(ring->tail, ring->own, __ATOMIC_RELEASE);
	return 1;
}

static PyObject *ring_try_send(PyObject *self, PyObject *payload)
{
	struct ring *ring = (struct ring *)self;
	if (usable(ring, 1) < 0)
		return NULL;
	int sent;
	if (PyBytes_CheckExact(payload)) {
		sent = send_bytes(ring, PyBytes_AsString(payload), PyBytes_Size(payload));
	} else {
		Py_buffer view;
		if (PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE) < 0)
			return NULL;
		sent = send_bytes(ring, view.buf, view.len);
		PyBuffer_Release(&view);
	}
	return sent < 0 ? NULL : PyBool_FromLong(sent);
}

static PyObject *ring_needs_bell(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct ring *ring = (struct ring *)self;
	if (usable(ring, ring->producer) < 0)
		return NULL;
	uint32_t *word = ring->producer ? ring->consumer_sleeps : ring->producer_waits;
	/* Between publishing the own position and looking whether the other side sleeps: it does it the other way round. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 0)
		Py_RETURN_FALSE;
	return PyBool_FromLong(__atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST) != 0);
}

/* A frame, None where there is none (only then is no reference made), or NULL. */
static PyObject *receive(struct ring *ring)
{
	uint32_t used = ring->peer - ring->own;
	if (used == 0) {
		if (look_at_tail(ring, &used) < 0)
			return NULL;
		if (used == 0)
			return Py_None;
	}
	uint32_t length;
	copy_out(ring, ring->own, &length, 4);
	if (length > used - 4) {
		is_broken(ring, "the other side wrote a frame longer than what is there");
		return NULL;
	}
	PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
	if (payload == NULL)
		return NULL;
	copy_out(ring, ring->own + 4, PyBytes_AsString(payload), length);
	ring->own += (4 + length + 7) & ~7u;
	__atomic_store_n(ring->head, ring->own, __ATOMIC_RELEASE);
	return payload;
}

static PyObject *ring_try_recv(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct ring *ring = (struct ring *)self;
	if (usable(ring, 0) < 0)
		return NULL;
	PyObject *payload = receive(ring);
	return payload == Py_None ? Py_NewRef(Py_None) : payload;
}

static inline int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline void pause_briefly(void)
{
#if defined __x86_64__ || defined __i386__
	__builtin_ia32_pause();
#elif defined __aarch64__
	__asm__ volatile("isb" ::: "memory"); /* "yield" returns at once on most */
#endif
}

static PyObject *ring_recv_spin(PyObject *self, PyObject *microseconds)
{
	struct ring *ring = (struct ring *)self;
	double span = PyFloat_AsDouble(microseconds);
	if (span == -1.0 && PyErr_Occurred())
		return NULL;
	if (!(span >= 0 && span <= SPIN_MAX)) {
		PyErr_SetString(PyExc_ValueError, "microseconds must be from 0 to 1000000");
		return NULL;
	}
	if (usable(ring, 0) < 0)
		return NULL;
	PyObject *payload = receive(ring);
	if (payload != Py_None)
		return payload;
	int64_t deadline = now() + (int64_t)(span * 1000);
	for (;;) {
		/* Another thread may receive meanwhile: this one only watches, and takes with the GIL held. */
		uint32_t seen = ring->own, *tail = ring->tail;
		int late;
		Py_BEGIN_ALLOW_THREADS
		do {
			pause_briefly();
			late = now() >= deadline; /* the clock takes most of the 50 ns */
		} while (__atomic_load_n(tail, __ATOMIC_RELAXED) == seen && !late);
		Py_END_ALLOW_THREADS
		if (usable(ring, 0) < 0)
			return NULL;
		payload = receive(ring);
		if (payload != Py_None)
			return payload;
		if (late)
			return Py_NewRef(Py_None);
	}
}

static PyObject *ring_prepare_sleep(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct ring *ring = (struct ring *)self;
	if (usable(ring, 0) < 0)
		return NULL;
	uint32_t used;
	__atomic_store_n(ring->consumer_sleeps, 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (look_at_tail(ring, &used) < 0)
		return NULL;
	if (used == 0)
		Py_RETURN_TRUE;
	__atomic_store_n(ring->consumer_sleeps, 0, __ATOMIC_SEQ_CST);
	Py_RETURN_FALSE;
}

static PyObject *ring_cancel_sleep(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct ring *ring = (struct ring *)self;
	/* Never raises for a broken channel: it stands in "finally". */
	if (!ring->broken && usable(ring, 0) < 0)
		return NULL;
	if (!ring->producer)
		__atomic_store_n(ring->consumer_sleeps, 0, __ATOMIC_SEQ_CST);
	Py_RETURN_NONE;
}

static PyObject *ring_broken(PyObject *self, void *closure)
{
	(void)closure;
	return PyBool_FromLong(((struct ring *)self)->broken);
}

static int set_up(struct ring *ring, Py_ssize_t control, Py_ssize_t data, Py_ssize_t capacity, long long position)
{
	const char *wrong = NULL;
	if (capacity < CAPACITY_MIN || capacity > CAPACITY_MAX || (capacity & (capacity - 1)) != 0)
		wrong = "capacity must be a power of two from 4096 to 2^30";
	else if (control < 0 || control % 64 != 0 || data < 0 || data % 8 != 0)
		wrong = "control_offset must be a multiple of 64, data_offset of 8";
	else if (control > ring->view.len - CONTROL_SIZE || data > ring->view.len - capacity)
		wrong = "the ring ends beyond the buffer";
	else if (control < data + capacity && data < control + CONTROL_SIZE)
		wrong = "the control block overlaps the data";
	else if (position < 0 || position > UINT32_MAX || position % 8 != 0)
		wrong = "position must be a multiple of 8 below 2^32";
	else if (((uintptr_t)ring->view.buf + (size_t)control) % _Alignof(uint32_t) != 0)
		wrong = "the buffer is not aligned";
	if (wrong != NULL) {
		PyErr_SetString(PyExc_ValueError, wrong);
		return -1;
	}
	char *block = (char *)ring->view.buf + control;
	/* Word by word: the buffer need not be aligned to a cache line to be correct, as a bytearray's is not. */
	ring->head = (uint32_t *)(void *)(block + offsetof(struct control, head));
	ring->tail = (uint32_t *)(void *)(block + offsetof(struct control, tail));
	ring->consumer_sleeps = (uint32_t *)(void *)(block + offsetof(struct control, consumer_sleeps));
	ring->producer_waits = (uint32_t *)(void *)(block + offsetof(struct control, producer_waits));
	ring->data = (unsigned char *)ring->view.buf + data;
	ring->capacity = (uint32_t)capacity;
	/* Known to be possible; what is in the shared memory is judged when it is needed. */
	ring->own = ring->peer = (uint32_t)position;
	if (ring->producer) {
		/* As full as can be, so that the first send looks. */
		ring->peer = ring->own - ring->capacity;
	}
	return 0;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
	static char *names[] = { "buffer", "control_offset", "data_offset", "capacity", "is_producer", "position", NULL };
	PyObject *buffer;
	Py_ssize_t control, data, capacity;
	long long position = 0;
	int producer;
	if (!PyArg_ParseTupleAndKeywords(args, named, "Onnnp|L:Ring", names, &buffer, &control, &data, &capacity, &producer,
					 &position))
		return NULL;
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	struct ring *ring = (struct ring *)allocate(type, 0);
	if (ring == NULL)
		return NULL;
	ring->producer = producer;
	if (PyObject_GetBuffer(buffer, &ring->view, PyBUF_WRITABLE) < 0) {
		Py_DECREF(ring);
		return NULL;
	}
	ring->held = 1;
	if (set_up(ring, control, data, capacity, position) < 0) {
		Py_DECREF(ring);
		return NULL;
	}
	return (PyObject *)ring;
}

static void ring_dealloc(PyObject *self)
{
	struct ring *ring = (struct ring *)self;
	PyTypeObject *type = Py_TYPE(self);
	if (ring->held)
		PyBuffer_Release(&ring->view);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
	release(self);
	Py_DECREF(type);
}

static PyMethodDef ring_methods[] = {
	{ "try_send", ring_try_send, METH_O,
	  "Sends a frame; False where there is no room yet, and then the consumer is asked to ring once there is." },
	{ "needs_bell", ring_needs_bell, METH_NOARGS,
	  "After a send or receive: whether the other side waits for a bell. Clears that." },
	{ "try_recv", ring_try_recv, METH_NOARGS, "The next frame, or None." },
	{ "recv_spin", ring_recv_spin, METH_O,
	  "The next frame, waited for actively and without the GIL for so many microseconds, or None." },
	{ "prepare_sleep", ring_prepare_sleep, METH_NOARGS,
	  "Says that the consumer is about to wait for its bell; False where a frame has come meanwhile." },
	{ "cancel_sleep", ring_cancel_sleep, METH_NOARGS, "Takes prepare_sleep() back." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef ring_fields[] = {
	{ "broken", ring_broken, NULL, "Whether the other side broke the channel.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot ring_slots[] = {
	{ Py_tp_new, (void *)ring_new },
	{ Py_tp_dealloc, (void *)ring_dealloc },
	{ Py_tp_methods, ring_methods },
	{ Py_tp_getset, ring_fields },
	{ Py_tp_doc, "Ring(buffer, control_offset, data_offset, capacity, is_producer, position=0)\n\n"
		     "One end of a byte ring in shared memory. Both ends start at position." },
	{ 0, NULL },
};

PyType_Spec ipc_ring_spec = {
	.name = "ipcctl._ipcctl.Ring",
	.basicsize = sizeof(struct ring),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = ring_slots,
};
