/*
 * The usual turn of a worker: take a CALL, run the function, send its value. What is not usual (streams, keyword arguments, code
 * strings, errors, values that need Python to judge them) is handed to ipcctl._runtime, which does it thoroughly.
 */
#include "ipcctl.h"

#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

/* Messages in a row before Python looks around: at other channels, at new clients, whether to end. */
#define BUDGET 64
#define TURN_NS 1000000
#define OTHERS 2
/* Frames up to this size need no allocation. */
#define SMALL 2048
/* Offsets in the segment: docs/shm-layout.md. */
#define STATISTICS 1024
#define BUCKETS 32

/* Written by this side only; whoever reads it believes nothing. */
struct statistics {
	uint64_t calls, errors, bytes_in, bytes_out, buckets[BUCKETS];
};

struct server {
	PyObject_HEAD
	struct ring *rx, *tx;
	PyObject *exposed;
	Py_buffer segment;
	struct statistics *statistics;
	int bell;
	long long running; /* the call that runs, 0 for none */
	int64_t began;	   /* of the answer that is sent */
	char is_paused, is_queueing, is_leaving, is_held, is_rung;
};

static void ring_bell(const struct server *server)
{
	/* Full: it is rung already. Closed: its end is noticed by who reads. */
	if (send(server->bell, "\1", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

/* Before the answer is out: who has it may look at once. */
static unsigned count(struct server *server)
{
	int64_t nanoseconds = ipc_now_ns() - server->began;
	uint64_t us = nanoseconds < 1000 ? 0 : (uint64_t)nanoseconds / 1000;
	unsigned bucket = us == 0 ? 0 : 64u - (unsigned)__builtin_clzll(us);
	bucket = bucket < BUCKETS ? bucket : BUCKETS - 1;
	server->statistics->buckets[bucket]++;
	server->statistics->calls++;
	return bucket;
}

/* 1: sent. 0: Python has to queue or cut it. */
static int send_answer(void *context, const unsigned char *bytes, size_t size)
{
	struct server *server = context;
	struct ring *tx = server->tx;
	if (server->is_queueing || size > tx->core.capacity / 4)
		return 0;
	if (tx->is_broken)
		return ipc_ring_refuse(tx, IPC_RING_BAD_POSITION);
	unsigned bucket = count(server);
	int sent = ipc_ring_send(&tx->core, bytes, size);
	if (sent == IPC_RING_NOTHING) { /* Python will count it when it sends it */
		server->statistics->buckets[bucket]--;
		server->statistics->calls--;
		return 0;
	}
	if (sent < 0)
		return ipc_ring_refuse(tx, sent);
	server->statistics->bytes_out += size;
	if (ipc_ring_needs_bell(&tx->core))
		ring_bell(server);
	return 1;
}

static int is_plain(PyObject *value)
{
	return value == Py_None || PyLong_CheckExact(value) || PyUnicode_CheckExact(value) || PyFloat_CheckExact(value) ||
	    PyBool_Check(value) || PyBytes_CheckExact(value) || PyList_CheckExact(value) || PyDict_CheckExact(value) ||
	       PyTuple_CheckExact(value);
}

/* What Python shall finish: (number, value or exception, whether it is an exception, nanoseconds when it began). */
static PyObject *unfinished(uint64_t number, PyObject *value, int is_error, int64_t began)
{
	return Py_BuildValue("(KNiL)", (unsigned long long)number, value, is_error, (long long)began);
}

static PyObject *fetch_exception(void)
{
	PyObject *type, *value, *traceback;
	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback != NULL)
		PyException_SetTraceback(value, traceback);
	Py_XDECREF(type);
	Py_XDECREF(traceback);
	return value;
}

/* True: answered. Else what Python shall finish, or NULL. */
static PyObject *run(struct server *server, struct ipc_state *state, PyObject *function, const struct ipc_call *call)
{
	int64_t began = ipc_now_ns();
	long long before = server->running;
	server->running = (long long)call->number;
	PyObject *value = PyObject_Call(function, call->args, NULL);
	server->running = before;
	if (value == NULL)
		return unfinished(call->number, fetch_exception(), 1, began);
	if (!is_plain(value))
		return unfinished(call->number, value, 0, began);
	server->began = began;
	int sent = ipc_encode_result(state, call->number, value, send_answer, server);
	if (sent == 1) {
		Py_DECREF(value);
		Py_RETURN_TRUE;
	}
	if (sent == 0)
		return unfinished(call->number, value, 0, began);
	Py_DECREF(value);
	if (PyErr_ExceptionMatches(state->broken_channel))
		return NULL;
	return unfinished(call->number, fetch_exception(), 1, began);
}

/* One message, already out of the ring: True, or what Python shall do with it, or NULL. */
static PyObject *handle(struct server *server, struct ipc_state *state, const unsigned char *bytes, size_t size)
{
	struct ipc_call call;
	int is_call = ipc_parse_call(state, bytes, size, &call);
	if (is_call < 0)
		return NULL;
	if (is_call) {
		PyObject *function = PyDict_GetItemWithError(server->exposed, call.name);
		PyObject *done = NULL;
		if (function != NULL) {
			Py_INCREF(function);
			done = run(server, state, function, &call);
			Py_DECREF(function);
		}
		Py_DECREF(call.name);
		Py_DECREF(call.args);
		if (function != NULL || PyErr_Occurred())
			return done;
	}
	return ipc_decode(state, bytes, size);
}

/* The next message: True, or what Python shall do, or NULL; None where the thorough way has to take it. */
static PyObject *take(struct server *server, struct ipc_state *state)
{
	struct ring *rx = server->rx;
	uint32_t length;
	int found = ipc_ring_peek(&rx->core, &length);
	if (found < 0) {
		ipc_ring_refuse(rx, found);
		return NULL;
	}
	unsigned char small[SMALL], *bytes = small;
	/* Parts of a message are put together with a lock held. */
	unsigned char first = length > 0 ? rx->core.data[(rx->core.own + 4) & (rx->core.capacity - 1)] : 0;
	if (found == IPC_RING_NOTHING || first == 1 || first == 2)
		Py_RETURN_NONE;
	if (length > SMALL && (bytes = PyMem_Malloc(length)) == NULL)
		return PyErr_NoMemory();
	ipc_ring_copy(&rx->core, length, bytes);
	ipc_ring_advance(&rx->core, length);
	server->statistics->bytes_in += length;
	/* Without the fence a wish may be missed once: a producer that waits looks again by itself. */
	if (__atomic_load_n(rx->core.producer_waits, __ATOMIC_RELAXED) != 0 && ipc_ring_needs_bell(&rx->core))
		ring_bell(server);
	PyObject *done = handle(server, state, bytes, length);
	if (bytes != small)
		PyMem_Free(bytes);
	return done;
}

/*
 * Until the client rings. 1: it did, or a frame has come. 0: there is something for Python to look at. -1 with an exception.
 * Bells are taken before the next sleep, not before the message that they announce.
 */
static int sleep_until_bell(struct server *server, const int others[OTHERS])
{
	char bells[64];
	if (server->is_rung && recv(server->bell, bells, sizeof bells, MSG_DONTWAIT) == 0)
		return 0;
	server->is_rung = 0;
	int may = ipc_ring_prepare_sleep(&server->rx->core);
	if (may < 0)
		return ipc_ring_refuse(server->rx, may);
	if (may == IPC_RING_NOTHING)
		return 1;
	struct pollfd polled[1 + OTHERS] = { { server->bell, POLLIN, 0 } };
	for (int i = 0; i < OTHERS; i++)
		polled[1 + i] = (struct pollfd){ others[i], POLLIN, 0 };
	int ready;
	Py_BEGIN_ALLOW_THREADS
	ready = poll(polled, 1 + OTHERS, -1);
	Py_END_ALLOW_THREADS
	ipc_ring_cancel_sleep(&server->rx->core);
	if (ready < 0)
		return PyErr_CheckSignals() < 0 ? -1 : 0;
	server->is_rung = (polled[0].revents & POLLIN) != 0;
	for (int i = 0; i < OTHERS; i++)
		if (polled[1 + i].revents != 0)
			return 0;
	return polled[0].revents == POLLIN;
}

static PyObject *server_turn(PyObject *self, PyObject *args)
{
	struct server *server = (struct server *)self;
	struct ipc_state *state = PyType_GetModuleState(Py_TYPE(self));
	double span;
	int others[OTHERS];
	if (state == NULL || !PyArg_ParseTuple(args, "dii:turn", &span, &others[0], &others[1]))
		return NULL;
	int64_t deadline = 0, until = 0;
	for (int taken = 0; taken < BUDGET;) {
		if (server->rx->is_broken || server->is_paused || server->is_leaving) {
			server->is_leaving = 0;
			Py_RETURN_NONE;
		}
		if (!ipc_ring_has_data(&server->rx->core)) {
			if (span <= 0 || (until != 0 && ipc_now_ns() > until))
				return PyBool_FromLong(taken > 0);
			if (deadline == 0)
				deadline = ipc_now_ns() + (int64_t)(span * 1000);
			if (ipc_ring_watch(server->rx, deadline) && !ipc_ring_has_data(&server->rx->core)) {
				if (taken > 0)
					Py_RETURN_TRUE;
				int is_rung = sleep_until_bell(server, others);
				if (is_rung < 0)
					return NULL;
				if (is_rung == 0)
					Py_RETURN_FALSE;
				deadline = 0;
			}
			continue;
		}
		if (PyErr_CheckSignals() < 0)
			return NULL;
		PyObject *done = take(server, state);
		if (done != Py_True)
			return done;
		Py_DECREF(done);
		deadline = 0;
		int64_t now = ipc_now_ns();
		if (taken++ == 0)
			until = now + TURN_NS;
		else if (now > until)
			break;
	}
	Py_RETURN_TRUE;
}

static PyObject *server_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
	static char *names[] = { "rx", "tx", "bell", "segment", "exposed", NULL };
	PyObject *rx, *tx, *segment, *exposed;
	int bell;
	if (!PyArg_ParseTupleAndKeywords(args, named, "OOiOO!:Server", names, &rx, &tx, &bell, &segment, &PyDict_Type, &exposed))
		return NULL;
	PyObject *module = PyType_GetModule(type);
	PyObject *ring_type = module == NULL ? NULL : PyObject_GetAttrString(module, "SharedRingBuffer");
	if (ring_type == NULL)
		return NULL;
	int are_rings = Py_IS_TYPE(rx, (PyTypeObject *)ring_type) && Py_IS_TYPE(tx, (PyTypeObject *)ring_type) &&
			!((struct ring *)rx)->core.is_producer && ((struct ring *)tx)->core.is_producer;
	Py_DECREF(ring_type);
	if (!are_rings) {
		PyErr_SetString(PyExc_TypeError, "rx and tx must be the consumer and the producer of a channel");
		return NULL;
	}
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	struct server *server = (struct server *)allocate(type, 0);
	if (server == NULL)
		return NULL;
	if (PyObject_GetBuffer(segment, &server->segment, PyBUF_WRITABLE) < 0) {
		Py_DECREF(server);
		return NULL;
	}
	server->is_held = 1;
	if (server->segment.len < (Py_ssize_t)(STATISTICS + sizeof *server->statistics)) {
		PyErr_SetString(PyExc_ValueError, "the segment has no room for statistics");
		Py_DECREF(server);
		return NULL;
	}
	server->statistics = (struct statistics *)(void *)((char *)server->segment.buf + STATISTICS);
	server->rx = (struct ring *)Py_NewRef(rx);
	server->tx = (struct ring *)Py_NewRef(tx);
	server->exposed = Py_NewRef(exposed);
	server->bell = bell;
	return (PyObject *)server;
}

static void server_dealloc(PyObject *self)
{
	struct server *server = (struct server *)self;
	PyTypeObject *type = Py_TYPE(self);
	Py_XDECREF((PyObject *)server->rx);
	Py_XDECREF((PyObject *)server->tx);
	Py_XDECREF(server->exposed);
	if (server->is_held)
		PyBuffer_Release(&server->segment);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
	release(self);
	Py_DECREF(type);
}

static PyMethodDef server_methods[] = {
	{ "turn", server_turn, METH_VARARGS,
	  "turn(microseconds, fd, fd) -> object\n\n"
	  "Answers calls as long as they come, looking out for the next one for so long (0: not at all), then sleeping until the\n"
	  "client rings or one of the descriptors is ready. False: no call came. True: look around, then go on. None: what comes is for the thorough way. A list: a message for it. A tuple (number, value or exception,\n"
	  "whether it is an exception, when it began): an answer for it." },
	{ NULL, NULL, 0, NULL },
};

/* Not of structmember.h: its names are in the stable ABI from 3.12 only under these. */
#include <structmember.h>

static PyMemberDef server_members[] = {
	{ "running", T_LONGLONG, offsetof(struct server, running), 0, "The number of the call that runs; 0 for none." },
	{ "bell", T_INT, offsetof(struct server, bell), 0, "The socket for bells; -1 for none." },
	{ "is_paused", T_BOOL, offsetof(struct server, is_paused), 0, "Another thread takes messages." },
	{ "is_queueing", T_BOOL, offsetof(struct server, is_queueing), 0, "Messages wait for room; later ones must not overtake." },
	{ "is_leaving", T_BOOL, offsetof(struct server, is_leaving), 0, "The turn ends before the next message." },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot server_slots[] = {
	{ Py_tp_new, (void *)server_new },
	{ Py_tp_dealloc, (void *)server_dealloc },
	{ Py_tp_methods, server_methods },
	{ Py_tp_members, server_members },
	{ Py_tp_doc, "Server(rx, tx, bell, segment, exposed)\n\nThe worker's end of a channel, for the usual calls." },
	{ 0, NULL },
};

PyType_Spec ipc_server_spec = {
	.name = "ipcctl._ipcctl.Server",
	.basicsize = sizeof(struct server),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = server_slots,
};
