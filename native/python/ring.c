/* One end of a ring as a Python object. Everything but waiting is done with the GIL held. */
#include "ipcctl.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#define SPIN_MAX 1e6
/* Seconds; a longer wait has no end. */
#define TIMEOUT_MAX 1e9
#define RINGS_MAX IPC_CHANNELS_MAX
#define ROUSE_MISSES_MAX 8
/* So long a thread looks out before it lets others have the GIL. */
#define HELD_NS 20000
/* Between two readings of the clock while busy-polling: a longer gap means that we were preempted. */
#define OFF_NS 4000

static int broken(struct ring *ring, const char *what)
{
	struct ipc_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)ring));
	ring->is_broken = 1;
	if (state != NULL)
		PyErr_SetString(state->broken_channel, what);
	return -1;
}

int ipc_ring_refuse(struct ring *ring, int result)
{
	return broken(ring, result == IPC_RING_BAD_LENGTH ? "the other side wrote a frame longer than what is there"
							  : "the other side wrote an impossible position");
}

static inline int usable(struct ring *ring, int is_producer)
{
	if (ring->is_broken)
		return broken(ring, "the channel is broken");
	if (ring->core.is_producer != is_producer) {
		PyErr_SetString(PyExc_TypeError,
			is_producer ? "only the producer can do this" : "only the consumer can do this");
		return -1;
	}
	return 0;
}

/* 1 if it was sent, 0 if there is no room yet, or -1 with an exception. */
static int send_frame(struct ring *ring, PyObject *payload)
{
	if (usable(ring, 1) < 0)
		return -1;
	int sent;
	Py_ssize_t size;
	ipc_ring_tell_core(&ring->core, ipc_core());
	if (PyBytes_CheckExact(payload)) {
		size = PyBytes_Size(payload);
		sent = ipc_ring_send(&ring->core, PyBytes_AsString(payload), (size_t)size);
	} else {
		Py_buffer view;
		if (PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE) < 0)
			return -1;
		size = view.len;
		sent = ipc_ring_send(&ring->core, view.buf, (size_t)size);
		PyBuffer_Release(&view);
	}
	if (sent == IPC_RING_TOO_LARGE) {
		PyErr_Format(
			PyExc_ValueError, "%zd bytes never fit into a ring of %u", size, (unsigned)ring->core.capacity);
		return -1;
	}
	return sent < 0 ? ipc_ring_refuse(ring, sent) : sent;
}

static PyObject *ring_try_send(PyObject *self, PyObject *payload)
{
	int sent = send_frame((struct ring *)self, payload);
	return sent < 0 ? NULL : PyBool_FromLong(sent);
}

/* Of a socket; -1 if it is closed. */
static int descriptor_of(PyObject *socket)
{
	int fd = PyObject_AsFileDescriptor(socket);
	if (fd < 0)
		PyErr_Clear();
	return fd;
}

/* Rings if the other side waits for it, and returns whether it does. It blocks nowhere, so the GIL is kept: a thread
 * that gives it away may wait milliseconds until it has it back. */
static int ring_if_needed(struct ring *ring, struct ipc_state *state, int bell)
{
	if (!ipc_ring_needs_bell(&ring->core))
		return 0;
	state->busy_poll.bells++;
	/* Full: it is rung already. Closed: the reader notices that. */
	return send(bell, "\1", 1, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno == EAGAIN;
}

/* The consumer wakes up while the frame is being made. If it was asleep again by then, that was in vain. */
static PyObject *ring_rouse(PyObject *self, PyObject *socket)
{
	struct ring *ring = (struct ring *)self;
	if (usable(ring, 1) < 0)
		return NULL;
	if (__atomic_load_n(ring->core.consumer_sleeps, __ATOMIC_RELAXED) == 0)
		Py_RETURN_NONE;
	if (ring->rouse_skip > 0) {
		ring->rouse_skip--;
		Py_RETURN_NONE;
	}
	ipc_ring_tell_core(&ring->core, ipc_core());
	ring->was_roused = ring_if_needed(ring, PyType_GetModuleState(Py_TYPE(self)), descriptor_of(socket));
	Py_RETURN_NONE;
}

static void judge_rouse(struct ring *ring, int was_asleep)
{
	if (!ring->was_roused)
		return;
	ring->was_roused = 0;
	if (!was_asleep)
		ring->rouse_misses = 0;
	else if (ring->rouse_misses < ROUSE_MISSES_MAX)
		ring->rouse_misses++;
	ring->rouse_skip = (1u << ring->rouse_misses) - 1;
}

static PyObject *ring_put(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
	struct ring *ring = (struct ring *)self;
	if (count != 2)
		return PyErr_Format(PyExc_TypeError, "put: 2 arguments, not %zd", count);
	int sent = send_frame(ring, args[1]);
	if (sent < 0)
		return NULL;
	if (sent)
		judge_rouse(ring, ring_if_needed(ring, PyType_GetModuleState(Py_TYPE(self)), descriptor_of(args[0])));
	return PyBool_FromLong(sent);
}

static PyObject *ring_needs_bell(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct ring *ring = (struct ring *)self;
	if (usable(ring, ring->core.is_producer) < 0)
		return NULL;
	int is_needed = ipc_ring_needs_bell(&ring->core);
	struct ipc_state *state = PyType_GetModuleState(Py_TYPE(self));
	if (is_needed && state != NULL)
		state->busy_poll.bells++;
	return PyBool_FromLong(is_needed);
}

/* A frame, None if there is none (without a new reference in that case), or NULL. */
static PyObject *receive(struct ring *ring)
{
	uint32_t length;
	int found = ipc_ring_peek(&ring->core, &length);
	if (found == IPC_RING_NOTHING)
		return Py_None;
	if (found < 0) {
		ipc_ring_refuse(ring, found);
		return NULL;
	}
	PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
	if (payload == NULL)
		return NULL;
	ipc_ring_copy(&ring->core, length, PyBytes_AsString(payload));
	ipc_ring_advance(&ring->core, length);
	return payload;
}

static PyObject *ring_try_receive(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct ring *ring = (struct ring *)self;
	if (usable(ring, 0) < 0)
		return NULL;
	PyObject *payload = receive(ring);
	return payload == Py_None ? Py_NewRef(Py_None) : payload;
}

int64_t ipc_now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Without the GIL, until one of these positions is no longer what was seen. Ends early if we were off the core. */
static int spin(uint32_t *const *tails, const uint32_t *seen, Py_ssize_t count, int64_t span_ns, int *was_off)
{
	int found = 0;
	int64_t now = ipc_now_ns(), deadline = now + span_ns;
	*was_off = 0;
	do {
		ipc_pause();
		for (Py_ssize_t i = 0; i < count; i++)
			found |= __atomic_load_n(tails[i], __ATOMIC_RELAXED) != seen[i];
		int64_t before = now;
		now = ipc_now_ns();
		*was_off = now - before > OFF_NS;
	} while (!found && !*was_off && now < deadline);
	return found;
}

int ipc_watch(const struct ring *const *rings, Py_ssize_t count, int64_t span_ns, int *was_off)
{
	uint32_t seen[RINGS_MAX] = { 0 }, *tails[RINGS_MAX] = { 0 };
	for (Py_ssize_t i = 0; i < count; i++) {
		seen[i] = rings[i]->core.own;
		tails[i] = rings[i]->core.tail;
	}
	Py_BEGIN_ALLOW_THREADS spin(tails, seen, count, span_ns, was_off);
	Py_END_ALLOW_THREADS for (Py_ssize_t i = 0; i < count; i++) if (ipc_ring_has_data(&rings[i]->core)) return 1;
	return 0;
}

/* What to do now that nothing is there; moves this thread if that is it. */
static enum ipc_rest decide(struct ipc_state *state, struct ipc_busy_poll *busy_poll)
{
	int64_t now = ipc_now_ns();
	enum ipc_rest rest = ipc_busy_poll_rest(busy_poll, now, ipc_core(), ipc_load(&state->meter, now));
	if (rest == IPC_REST_JOIN)
		busy_poll->joined += (unsigned)ipc_core_join(busy_poll->client);
	if (rest != IPC_REST_PART)
		return rest;
	int has_parted = ipc_core_leave();
	busy_poll->parted += (unsigned)has_parted;
	if (has_parted)
		return IPC_REST_LOOK;
	ipc_busy_poll_missed(busy_poll);
	return IPC_REST_SLEEP;
}

int ipc_look_out(struct ipc_state *state, struct ipc_busy_poll *busy_poll, const struct ring *const *rings,
	Py_ssize_t count, int64_t span_ns)
{
	int was_off;
	if (decide(state, busy_poll) != IPC_REST_LOOK)
		return 0;
	busy_poll->looks++;
	if (ipc_watch(rings, count, span_ns, &was_off)) {
		ipc_busy_poll_found(busy_poll, was_off);
		return 1;
	}
	ipc_busy_poll_missed(busy_poll);
	return 0;
}

static int get_span(PyObject *microseconds, int64_t *span_ns)
{
	double span = PyFloat_AsDouble(microseconds);
	if (span == -1.0 && PyErr_Occurred())
		return -1;
	if (!(span >= 0 && span <= SPIN_MAX)) {
		PyErr_SetString(PyExc_ValueError, "microseconds must be from 0 to 1000000");
		return -1;
	}
	*span_ns = (int64_t)(span * 1000);
	return 0;
}

static PyObject *ring_receive_spin(PyObject *self, PyObject *microseconds)
{
	struct ring *ring = (struct ring *)self;
	const struct ring *one = ring;
	int64_t span;
	if (get_span(microseconds, &span) < 0)
		return NULL;
	int64_t deadline = ipc_now_ns() + span;
	for (;;) {
		int was_off;
		if (usable(ring, 0) < 0)
			return NULL;
		PyObject *payload = receive(ring);
		if (payload != Py_None)
			return payload;
		int64_t left = deadline - ipc_now_ns();
		if (left <= 0)
			return Py_NewRef(Py_None);
		ipc_watch(&one, 1, left, &was_off);
	}
}

/* receive_spin() by the rules of docs/internals/waiting.md. */
static PyObject *ring_look_out(PyObject *self, PyObject *microseconds)
{
	struct ring *ring = (struct ring *)self;
	const struct ring *one = ring;
	struct ipc_state *state = PyType_GetModuleState(Py_TYPE(self));
	int64_t span;
	if (get_span(microseconds, &span) < 0 || usable(ring, 0) < 0)
		return NULL;
	PyObject *payload = receive(ring);
	if (payload == Py_None && ipc_look_out(state, &ring->busy_poll, &one, 1, span)) {
		if (usable(ring, 0) < 0)
			return NULL;
		payload = receive(ring);
	}
	if (payload == NULL || payload == Py_None)
		return Py_XNewRef(payload);
	ring->busy_poll.taken++;
	ring->busy_poll.client = ipc_ring_peer_core(&ring->core);
	return payload;
}

/* How a wait went on. */
enum wait { WAIT_FOUND, WAIT_LATE, WAIT_OVER, WAIT_SIGNAL };

/* Without the GIL: says that we sleep, then sleeps until the bell is rung, unless a frame has come. Whoever rings
 * before it sends is about to: we look out for that, unless it needs the core that we are on. */
static enum wait sleep_until_bell(const struct ring *ring, uint32_t own, int bell, int64_t deadline_ns, int64_t span_ns)
{
	char bells[64];
	int was_off, ready = 0;
	enum wait end = WAIT_FOUND;
	if (ipc_ring_announce_sleep(&ring->core, own)) {
		int64_t left = deadline_ns - ipc_now_ns();
		if (left < 0)
			left = 0;
		struct timespec rest = { (time_t)(left / 1000000000), (long)(left % 1000000000) };
		struct pollfd polled = { bell, POLLIN, 0 };
		ready = ppoll(&polled, 1, deadline_ns == INT64_MAX ? NULL : &rest, NULL);
		end = ready < 0 ? WAIT_SIGNAL : ready == 0 ? WAIT_LATE : WAIT_FOUND;
	}
	ipc_ring_cancel_sleep(&ring->core);
	if (ready <= 0)
		return end;
	ssize_t got = recv(bell, bells, sizeof bells, MSG_DONTWAIT);
	if (got == 0 || (got < 0 && errno != EAGAIN))
		return WAIT_OVER;
	if (ipc_ring_peer_core(&ring->core) != ipc_core())
		spin(&ring->core.tail, &own, 1, span_ns, &was_off);
	return WAIT_FOUND;
}

/* Looks out where that pays, then sleeps. The GIL is given away once at most, and not for an answer that comes at once:
 * beside a thread that computes, whoever wants it back may wait milliseconds. */
static enum wait wait_for_frame(
	struct ring *ring, struct ipc_state *state, int bell, int64_t deadline_ns, int64_t span_ns)
{
	uint32_t own = ring->core.own;
	int is_looking = decide(state, &ring->busy_poll) == IPC_REST_LOOK, found = 0, was_off = 0;
	int64_t held_ns = span_ns < HELD_NS ? span_ns : HELD_NS;
	enum wait end = WAIT_FOUND;
	if (is_looking)
		found = spin(&ring->core.tail, &own, 1, held_ns, &was_off);
	if (!found) {
		Py_BEGIN_ALLOW_THREADS if (is_looking && !was_off) found =
			spin(&ring->core.tail, &own, 1, span_ns - held_ns, &was_off);
		if (!found)
			end = sleep_until_bell(ring, own, bell, deadline_ns, span_ns);
		Py_END_ALLOW_THREADS
	}
	ring->busy_poll.looks += (unsigned)is_looking;
	if (found) {
		ipc_busy_poll_found(&ring->busy_poll, was_off);
		return WAIT_FOUND;
	}
	if (is_looking)
		ipc_busy_poll_missed(&ring->busy_poll);
	ipc_busy_poll_slept(&ring->busy_poll, ipc_now_ns());
	return end;
}

static PyObject *ring_get(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
	struct ring *ring = (struct ring *)self;
	struct ipc_state *state = PyType_GetModuleState(Py_TYPE(self));
	int64_t span, deadline = INT64_MAX;
	if (count != 3)
		return PyErr_Format(PyExc_TypeError, "get: 3 arguments, not %zd", count);
	if (get_span(args[1], &span) < 0)
		return NULL;
	int bell = descriptor_of(args[0]);
	if (args[2] != Py_None) {
		double timeout = PyFloat_AsDouble(args[2]);
		if (timeout == -1.0 && PyErr_Occurred())
			return NULL;
		if (timeout < TIMEOUT_MAX)
			deadline = ipc_now_ns() + (int64_t)(timeout > 0 ? timeout * 1e9 : 0);
	}
	enum wait end = bell < 0 ? WAIT_OVER : WAIT_FOUND;
	for (;; end = wait_for_frame(ring, state, bell, deadline, span)) {
		if (usable(ring, 0) < 0 || (end == WAIT_SIGNAL && PyErr_CheckSignals() < 0))
			return NULL;
		PyObject *payload = receive(ring);
		if (payload == NULL)
			return NULL;
		if (payload != Py_None) {
			ring->busy_poll.taken++;
			ring->busy_poll.client = ipc_ring_peer_core(&ring->core);
			ring_if_needed(ring, state, bell);
			return payload;
		}
		if (end == WAIT_OVER)
			Py_RETURN_FALSE;
		if (end == WAIT_LATE)
			Py_RETURN_NONE;
	}
}

static PyObject *ring_prepare_sleep(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct ring *ring = (struct ring *)self;
	if (usable(ring, 0) < 0)
		return NULL;
	int may = ipc_ring_prepare_sleep(&ring->core);
	if (may < 0)
		ipc_ring_refuse(ring, may);
	ring->is_resting = may == IPC_RING_OK;
	return may < 0 ? NULL : PyBool_FromLong(may == IPC_RING_OK);
}

static PyObject *ring_cancel_sleep(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct ring *ring = (struct ring *)self;
	/* Never raises for a broken channel, because it is called in "finally". */
	if (!ring->is_broken && usable(ring, 0) < 0)
		return NULL;
	if (!ring->core.is_producer)
		ipc_ring_cancel_sleep(&ring->core);
	if (ring->is_resting)
		ipc_busy_poll_slept(&ring->busy_poll, ipc_now_ns());
	ring->is_resting = 0;
	Py_RETURN_NONE;
}

static PyObject *ring_broken(PyObject *self, void *closure)
{
	(void)closure;
	return PyBool_FromLong(((struct ring *)self)->is_broken);
}

static PyObject *ring_capacity(PyObject *self, void *closure)
{
	(void)closure;
	return PyLong_FromUnsignedLong(((struct ring *)self)->core.capacity);
}

static PyObject *ring_has_data(PyObject *self, void *closure)
{
	(void)closure;
	return PyBool_FromLong(ipc_ring_has_data(&((struct ring *)self)->core));
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
	static char *names[] = { "buffer", "control_offset", "data_offset", "capacity", "is_producer", "position",
		NULL };
	PyObject *buffer;
	Py_ssize_t control, data, capacity;
	long long position = 0;
	int producer;
	if (!PyArg_ParseTupleAndKeywords(args, named, "Onnnp|L:SharedRingBuffer", names, &buffer, &control, &data,
		    &capacity, &producer, &position))
		return NULL;
	if (control < 0 || data < 0 || capacity < 0 || position < 0 || position > UINT32_MAX) {
		PyErr_SetString(
			PyExc_ValueError, "offsets, capacity and position must not be negative, position below 2^32");
		return NULL;
	}
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	struct ring *ring = (struct ring *)allocate(type, 0);
	if (ring == NULL)
		return NULL;
	if (PyObject_GetBuffer(buffer, &ring->view, PyBUF_WRITABLE) < 0) {
		Py_DECREF(ring);
		return NULL;
	}
	ring->is_held = 1;
	const char *wrong = ipc_ring_open(&ring->core, ring->view.buf, (size_t)ring->view.len, (size_t)control,
		(size_t)data, (size_t)capacity, (uint32_t)position, producer);
	if (wrong != NULL) {
		PyErr_SetString(PyExc_ValueError, wrong);
		Py_DECREF(ring);
		return NULL;
	}
	return (PyObject *)ring;
}

static void ring_dealloc(PyObject *self)
{
	struct ring *ring = (struct ring *)self;
	PyTypeObject *type = Py_TYPE(self);
	if (ring->is_held)
		PyBuffer_Release(&ring->view);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
	release(self);
	Py_DECREF(type);
}

static PyMethodDef ring_methods[] = {
	{ "try_send", ring_try_send, METH_O,
		"Sends a frame; False where there is no room yet, and then the consumer is asked to ring once there "
		"is." },
	{ "needs_bell", ring_needs_bell, METH_NOARGS,
		"After a send or receive: whether the other side waits for a bell. Clears that." },
	{ "put", (PyCFunction)(void (*)(void))ring_put, METH_FASTCALL,
		"put(socket, buffer) -> bool\n\ntry_send(), and a bell on the socket if the other side waits for "
		"one." },
	{ "rouse", ring_rouse, METH_O,
		"rouse(socket)\n\nRings if the consumer sleeps, for a frame that is about to follow by put(). Does "
		"nothing where that was in vain lately." },
	{ "get", (PyCFunction)(void (*)(void))ring_get, METH_FASTCALL,
		"get(socket, microseconds, seconds) -> bytes | None | False\n\nlook_out(), then sleeps until the "
		"socket "
		"is rung: the next frame; None after so\nmany seconds, unless they are None; False once the other "
		"side has closed it." },
	{ "try_receive", ring_try_receive, METH_NOARGS, "The next frame, or None." },
	{ "receive_spin", ring_receive_spin, METH_O,
		"The next frame, waited for actively and without the GIL for so many microseconds, or None." },
	{ "look_out", ring_look_out, METH_O, "The same where that pays. After None: sleep, by prepare_sleep()." },
	{ "prepare_sleep", ring_prepare_sleep, METH_NOARGS,
		"Says that the consumer is about to wait for its bell; False where a frame has come meanwhile." },
	{ "cancel_sleep", ring_cancel_sleep, METH_NOARGS, "Takes prepare_sleep() back." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef ring_fields[] = {
	{ "broken", ring_broken, NULL, "Whether the other side broke the channel.", NULL },
	{ "capacity", ring_capacity, NULL, "Bytes of the ring.", NULL },
	{ "has_data", ring_has_data, NULL, "Whether there is a frame.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot ring_slots[] = {
	{ Py_tp_new, (void *)ring_new },
	{ Py_tp_dealloc, (void *)ring_dealloc },
	{ Py_tp_methods, ring_methods },
	{ Py_tp_getset, ring_fields },
	{ Py_tp_doc, "SharedRingBuffer(buffer, control_offset, data_offset, capacity, is_producer, position=0)\n\n"
		     "One end of a byte ring in shared memory. Both ends start at position." },
	{ 0, NULL },
};

PyType_Spec ipc_ring_spec = {
	.name = "ipcctl._ipcctl.SharedRingBuffer",
	.basicsize = sizeof(struct ring),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = ring_slots,
};
