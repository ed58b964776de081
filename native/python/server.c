/* The usual work of a worker: take a CALL, run the function, send its value. Everything else (streams, keyword
 * arguments, code strings, errors, values that need Python) is handed to ipcctl._calling. */
#include "ipcctl.h"

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

/* Messages in a row before Python looks around: at other channels, at new clients, at a request to end. */
#define BUDGET 64
#define TURN_NS 1000000
#define OTHERS 2
/* If more clients wait than can be awake beside us, each has the worker to itself for this long while the others sleep:
 * that takes two wakes per turn instead of two per call. A client keeps its turn while its next message comes soon or,
 * after a bell, as soon as it can be awake. */
#define STAY_NS 200000
#define SOON_NS 10000
#define WAKE_NS 60000
#define STAY_MISSES_MAX 8
/* As many as the shim admits. */
#define CHANNELS_MAX IPC_CHANNELS_MAX
/* Frames up to this size need no allocation. */
#define SMALL 2048
#define BUCKETS IPC_LATENCY_CLASSES
/* Written by this side only; its readers do not trust it. */
struct statistics {
	uint64_t calls, errors, bytes_in, bytes_out, buckets[BUCKETS], nanoseconds;
};
_Static_assert(sizeof(struct statistics) == 8 * IPC_STATISTICS_WORDS, "as contract/segment.ts says");
_Static_assert(offsetof(struct statistics, buckets) == 8 * IPC_STATISTICS_LATENCIES, "likewise");

struct server {
	PyObject_HEAD struct ipc_state *state;
	struct ring *rx, *tx;
	PyObject *exposed;
	Py_buffer segment;
	struct statistics *statistics;
	int bell;
	int64_t began;              /* of the answer being sent */
	PyObject *channel;          /* its object in Python */
	PyObject *wanted;           /* numbers of requests that the client wants interrupted and that have not ended */
	const uint64_t *interrupts; /* changes when there is something for Channel.look() to take */
	uint64_t seen;              /* its value at the last look */
	unsigned long long last;    /* the highest number of a request that was started or refused */
	uint32_t awake;             /* what the client was told */
	char was_rung;              /* about the last answer */
	char is_paused, is_queueing, is_leaving, is_looked_at, is_gone, is_held, is_rung;
};

/* A request whose code runs, on the stack of the serving thread. Code that calls a client's function serves other
 * requests meanwhile, so there may be several, and only the innermost can be interrupted. The exception is raised in
 * the user's code only, never in the code that serves it. */
struct ipc_frame {
	struct server *server;
	uint64_t number;
	struct ipc_frame *outer;
	unsigned long thread;
	int64_t due_ns, gap_ns; /* when it may be interrupted again: code that swallowed the first exception gets
				   another one later */
	char is_in_user;        /* an exception may be raised now */
	char is_sent;           /* an exception was sent to this thread, but not raised yet */
};
#define AGAIN_NS 1000000000
#define AGAIN_NS_MAX 60000000000

/* One pass over all channels. */
struct turn {
	struct ipc_state *state;
	struct server **servers, *present;
	Py_ssize_t count;
	PyObject *here;
	int64_t until; /* 0: nothing was taken yet. 1: over */
	unsigned long long number;
};

static void ring_bell(const struct server *server)
{
	server->state->busy_poll.bells++;
	/* Full: it is rung already. Closed: the reader notices that. */
	if (send(server->bell, "\1", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

/* Counts one answer before it is sent, because its receiver may read the counts at once. `sign` is 1, or -1 to take it
 * back. */
static void count(struct server *server, int64_t nanoseconds, int sign)
{
	uint64_t us = nanoseconds < 1000 ? 0 : (uint64_t)nanoseconds / 1000;
	unsigned bucket = us == 0 ? 0 : 64u - (unsigned)__builtin_clzll(us);
	bucket = bucket < BUCKETS ? bucket : BUCKETS - 1;
	server->statistics->buckets[bucket] += (uint64_t)sign;
	server->statistics->calls += (uint64_t)sign;
	server->statistics->nanoseconds += (uint64_t)(sign * nanoseconds);
}

/* 1: sent. 0: Python must queue or split it. */
static int send_answer(void *context, const unsigned char *bytes, size_t size)
{
	struct server *server = context;
	struct ring *tx = server->tx;
	if (server->is_queueing || size > tx->core.capacity / 4)
		return 0;
	if (tx->is_broken)
		return ipc_ring_refuse(tx, IPC_RING_BAD_POSITION);
	int64_t nanoseconds = ipc_now_ns() - server->began;
	count(server, nanoseconds, 1);
	ipc_ring_tell_core(&tx->core, ipc_core());
	int sent = ipc_ring_send(&tx->core, bytes, size);
	if (sent == IPC_RING_NOTHING) { /* Python counts it when it sends it */
		count(server, nanoseconds, -1);
		return 0;
	}
	if (sent < 0)
		return ipc_ring_refuse(tx, sent);
	server->statistics->bytes_out += size;
	server->was_rung = (char)ipc_ring_needs_bell(&tx->core);
	if (server->was_rung)
		ring_bell(server);
	return 1;
}

static int is_plain(PyObject *value)
{
	return value == Py_None || PyLong_CheckExact(value) || PyUnicode_CheckExact(value) || PyFloat_CheckExact(value)
	       || PyBool_Check(value) || PyBytes_CheckExact(value) || PyList_CheckExact(value)
	       || PyDict_CheckExact(value) || PyTuple_CheckExact(value);
}

/* What Python must finish: (number, value or exception, whether it is an exception, nanoseconds when it began). */
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

static int has_news(const struct server *server)
{
	return __atomic_load_n(server->interrupts, __ATOMIC_RELAXED) != server->seen;
}

/* Whether the client wants this request interrupted. */
static int is_wanted(const struct server *server, uint64_t number)
{
	if (server->is_gone || PySet_Size(server->wanted) == 0)
		return server->is_gone;
	PyObject *key = PyLong_FromUnsignedLongLong(number);
	int found = key == NULL ? -1 : PySet_Contains(server->wanted, key);
	Py_XDECREF(key);
	if (found < 0)
		PyErr_Clear(); /* out of memory: the next signal asks again */
	return found > 0;
}

/* Whether an exception must be raised in it now. */
static int is_due(const struct ipc_frame *frame)
{
	return frame != NULL && is_wanted(frame->server, frame->number) && ipc_now_ns() >= frame->due_ns;
}

static void postpone(struct ipc_frame *frame)
{
	frame->gap_ns = frame->gap_ns == 0 ? AGAIN_NS : frame->gap_ns < AGAIN_NS_MAX ? 2 * frame->gap_ns : AGAIN_NS_MAX;
	frame->due_ns = ipc_now_ns() + frame->gap_ns;
}

/* An exception that was sent to this thread but not raised does not count: it is due again. */
static void take_back(struct ipc_frame *frame)
{
	if (!frame->is_sent)
		return;
	frame->is_sent = 0;
	frame->due_ns = 0;
	PyThreadState_SetAsyncExc(frame->thread, NULL);
}

/* 1, 0 if the request must not start, -1 with an exception. */
static int may_begin(struct server *server, uint64_t number)
{
	if (number > server->last)
		server->last = number;
	if ((has_news(server) || server->is_looked_at) && !server->is_gone) {
		PyObject *looked = PyObject_CallMethod(server->channel, "look_first", NULL);
		if (looked == NULL)
			return -1;
		Py_DECREF(looked);
	}
	return !is_wanted(server, number);
}

/* Runs the user's code for a request: returns its value, or the exception that it raised. No Python instruction lies
 * between the code and the flag that says it runs, so a signal handler always finds the flag right. */
static PyObject *perform(struct server *server, struct ipc_state *state, uint64_t number, PyObject *function,
	PyObject *args, PyObject *named, int *is_error)
{
	struct ipc_frame frame = {
		.server = server, .number = number, .outer = state->innermost, .thread = PyThread_get_thread_ident()
	};
	PyObject *value = NULL;
	state->innermost = &frame;
	int may = may_begin(server, number);
	if (may > 0) {
		frame.is_in_user = 1;
		value = PyObject_Call(function, args, named);
		frame.is_in_user = 0;
	} else if (may == 0) {
		PyErr_SetString(state->interrupted, "interrupted by the client before it began");
	}
	*is_error = value == NULL;
	if (value == NULL)
		value = fetch_exception(); /* creates it from what was sent, which marks it as arrived */
	take_back(&frame);
	state->innermost = frame.outer;
	return value;
}

/* True: answered. Otherwise what Python must finish, or NULL. */
static PyObject *run(struct server *server, struct ipc_state *state, PyObject *function, const struct ipc_call *call)
{
	int64_t began = ipc_now_ns();
	int is_error;
	PyObject *value = perform(server, state, call->number, function, call->args, NULL, &is_error);
	if (is_error)
		return unfinished(call->number, value, 1, began);
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

/* One message, already taken from the ring: True, or what Python must do with it, or NULL. */
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
	PyObject *message = ipc_decode(state, bytes, size);
	if (message != NULL || !PyErr_ExceptionMatches(PyExc_Exception))
		return message;
	PyErr_Clear(); /* Python finds out what it was, and which channel pays for it */
	return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
}

/* The next message: True, or what Python must do, or NULL; None if the Python path must take it. */
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
	/* Parts of a message are joined with a lock held. */
	unsigned char first = length > 0 ? rx->core.data[(rx->core.own + 4) & (rx->core.capacity - 1)] : 0;
	if (found == IPC_RING_NOTHING || first == IPC_PART_MORE || first == IPC_PART_LAST)
		Py_RETURN_NONE;
	if (length > SMALL && (bytes = PyMem_Malloc(length)) == NULL)
		return PyErr_NoMemory();
	ipc_ring_copy(&rx->core, length, bytes);
	ipc_ring_advance(&rx->core, length);
	server->statistics->bytes_in += length;
	/* Without the fence a waiting producer may be missed once; it looks again by itself. */
	if (__atomic_load_n(rx->core.producer_waits, __ATOMIC_RELAXED) != 0 && ipc_ring_needs_bell(&rx->core))
		ring_bell(server);
	PyObject *done = handle(server, state, bytes, length);
	if (bytes != small)
		PyMem_Free(bytes);
	return done;
}

/* Encoding and decoding in Python ask whose message it is; set only when it changes. */
static int enter(struct turn *turn, struct server *server)
{
	if (turn->present == server)
		return 0;
	turn->present = server;
	return PyObject_SetAttrString(turn->here, "channel", server->channel);
}

static uint32_t count_waiting(const struct turn *turn, const struct server *except)
{
	uint32_t count = 0;
	for (Py_ssize_t i = 0; i < turn->count; i++)
		count += turn->servers[i] != except && ipc_ring_has_data(&turn->servers[i]->rx->core);
	return count;
}

static void tell_awake(struct server *server, uint32_t others)
{
	if (server->awake == others)
		return;
	server->awake = others;
	ipc_ring_tell_awake(&server->tx->core, others);
}

/* As many messages of one channel as may be taken in a row: True; or what Python must do, or NULL; None for the Python
 * path. With the last answer of its turn the client learns that others wait. */
static PyObject *take_some(struct turn *turn, struct server *server, int64_t stay_until)
{
	if (enter(turn, server) < 0)
		return NULL;
	turn->state->busy_poll.client = ipc_ring_peer_core(&server->rx->core);
	int64_t now = 0;
	for (int taken = 0; taken < BUDGET && ipc_ring_has_data(&server->rx->core); taken++) {
		if (server->rx->is_broken || server->is_paused)
			Py_RETURN_NONE;
		if (PyErr_CheckSignals() < 0)
			return NULL;
		if (stay_until != 0 && now > stay_until)
			tell_awake(server, count_waiting(turn, server));
		turn->state->busy_poll.taken++;
		PyObject *done = take(server, turn->state);
		if (done != Py_True)
			return done;
		Py_DECREF(done);
		int is_last = stay_until != 0 && now > stay_until;
		now = ipc_now_ns();
		if (turn->until == 0)
			turn->until = now + TURN_NS;
		if (server->is_leaving || now > turn->until) {
			server->is_leaving = 0;
			turn->until = 1; /* over */
			break;
		}
		if (is_last)
			break;
	}
	Py_RETURN_TRUE;
}

/* Whether the next message of the channel that has its turn will come soon. */
static int stays(const struct turn *turn, struct server *server)
{
	struct ipc_state *state = turn->state;
	const struct ring *ring = server->rx;
	int was_off;
	if (!server->was_rung && ipc_ring_peer_core(&server->rx->core) == ipc_core())
		return 0;
	if (ipc_watch(&ring, 1, server->was_rung ? WAKE_NS : SOON_NS, &was_off)) {
		state->stay_misses = 0;
		return 1;
	}
	if (state->stay_misses < STAY_MISSES_MAX)
		state->stay_misses++;
	state->stay_skip = (1u << state->stay_misses) - 1;
	return 0;
}

/* The turn of one channel; returns what take_some() returns. */
static PyObject *serve(struct turn *turn, struct server *server)
{
	struct ipc_state *state = turn->state;
	uint32_t others = turn->count > 1 ? count_waiting(turn, server) : 0;
	int is_crowd = others + 2 > state->cores && others > 0;
	int may_stay = is_crowd && state->stay_skip == 0;
	if (is_crowd && !may_stay)
		state->stay_skip--;
	tell_awake(server, is_crowd && !may_stay ? others : 0);
	int64_t until = may_stay ? ipc_now_ns() + STAY_NS : 0;
	PyObject *done = take_some(turn, server, until);
	while (done == Py_True && may_stay && turn->until != 1 && ipc_now_ns() < until && stays(turn, server)) {
		Py_DECREF(done);
		done = take_some(turn, server, until);
	}
	return done;
}

/* Whether something has arrived; if not, it is time to sleep. */
static int look_out(const struct turn *turn, int64_t span_ns)
{
	const struct ring *rings[CHANNELS_MAX];
	for (Py_ssize_t i = 0; i < turn->count; i++)
		rings[i] = turn->servers[i]->rx;
	return ipc_look_out(turn->state, &turn->state->busy_poll, rings, turn->count, span_ns);
}

/* Whether Python has work before this thread may sleep: it was told so, messages wait for room, or a function of the
 * user took messages itself, and only Python knows what they started. */
static int is_due_elsewhere(const struct turn *turn)
{
	for (Py_ssize_t i = 0; i < turn->count; i++)
		if (turn->servers[i]->is_leaving || turn->servers[i]->is_queueing || has_news(turn->servers[i]))
			return 1;
	return turn->state->turns != turn->number;
}

/* Without the GIL. Negative: a signal came, perhaps just before, when Python could no longer run a handler. */
static int poll_or_signal(struct pollfd *polled, nfds_t count)
{
	int ready = -1;
	sigset_t all, before;
	sigfillset(&all);
	if (PyErr_CheckSignals() < 0)
		return -1;
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (PyErr_CheckSignals() == 0) {
		Py_BEGIN_ALLOW_THREADS ready = ppoll(polled, count, NULL, &before);
		Py_END_ALLOW_THREADS
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ready;
}

/* Sleeps until a client rings. 1: one did, or a frame has arrived. 0: Python has something to look at. -1 with an
 * exception. Bells are taken before the next sleep, not before the message that they announce. */
static int sleep_until_bell(struct turn *turn, const int others[OTHERS])
{
	struct pollfd polled[CHANNELS_MAX + OTHERS];
	char bells[64];
	Py_ssize_t asleep = 0;
	int may = IPC_RING_OK, is_over = 0;
	for (; asleep < turn->count && may == IPC_RING_OK && !is_over; asleep++) {
		struct server *server = turn->servers[asleep];
		is_over = server->is_rung && recv(server->bell, bells, sizeof bells, MSG_DONTWAIT) == 0;
		server->is_rung = 0;
		may = ipc_ring_prepare_sleep(&server->rx->core);
		polled[asleep] = (struct pollfd){ server->bell, POLLIN, 0 };
	}
	for (int i = 0; i < OTHERS; i++)
		polled[turn->count + i] = (struct pollfd){ others[i], POLLIN, 0 };
	int ready = 0;
	if (may == IPC_RING_OK && !is_over) {
		ready = poll_or_signal(polled, (nfds_t)(turn->count + OTHERS));
		ipc_busy_poll_slept(&turn->state->busy_poll, ipc_now_ns());
		turn->until = 0; /* the others were polled as well */
	}
	for (Py_ssize_t i = 0; i < asleep; i++)
		ipc_ring_cancel_sleep(&turn->servers[i]->rx->core);
	if (may < 0)
		turn->servers[asleep - 1]->rx->is_broken = 1; /* which the next look finds */
	if (may != IPC_RING_OK)
		return 1;
	if (is_over)
		return 0;
	if (ready < 0)
		return PyErr_Occurred() || PyErr_CheckSignals() < 0 ? -1 : 0;
	int is_plain_bell = 0;
	for (Py_ssize_t i = 0; i < turn->count; i++) {
		turn->servers[i]->is_rung = (polled[i].revents & POLLIN) != 0;
		is_plain_bell |= polled[i].revents == POLLIN;
		is_over |= (polled[i].revents & ~POLLIN) != 0;
	}
	for (int i = 0; i < OTHERS; i++)
		is_over |= polled[turn->count + i].revents != 0;
	return is_plain_bell && !is_over;
}

/* The result of a turn: what to do, and for which channel. */
static PyObject *ended(const struct turn *turn, const struct server *server, PyObject *done)
{
	if (done == NULL) {
		/* Python finds out whose ring is broken. */
		PyObject *type, *value, *traceback;
		PyErr_Fetch(&type, &value, &traceback);
		int is_channel = type != NULL
				 && (PyErr_GivenExceptionMatches(type, turn->state->broken_channel)
					 || PyErr_GivenExceptionMatches(type, turn->state->decode_error));
		if (!is_channel) {
			PyErr_Restore(type, value, traceback);
			return NULL;
		}
		Py_XDECREF(type);
		Py_XDECREF(value);
		Py_XDECREF(traceback);
		done = Py_NewRef(Py_False);
	}
	PyObject *result = Py_BuildValue("(ON)", server->channel, done);
	return result;
}

static PyObject *run_turn(struct turn *turn, int64_t span_ns, const int others[OTHERS])
{
	int is_any = 0;
	turn->number = ++turn->state->turns;
	if (turn->state->cores == 0)
		turn->state->cores = ipc_cores();
	for (;;) {
		int has_taken = 0;
		size_t count = (size_t)turn->count, first = turn->state->next;
		for (size_t k = 0; k < count; k++) {
			size_t i = (first + k) % count;
			struct server *server = turn->servers[i];
			if (server->rx->is_broken)
				return ended(turn, server, Py_NewRef(Py_False));
			if (server->is_leaving || has_news(server)) {
				server->is_leaving = 0;
				Py_RETURN_TRUE;
			}
			if (!ipc_ring_has_data(&server->rx->core))
				continue;
			turn->state->next = i + 1;
			PyObject *done = serve(turn, server);
			if (done != Py_True)
				return ended(turn, server, done);
			Py_DECREF(done);
			has_taken = is_any = 1;
		}
		if (turn->until != 0 && (turn->until == 1 || ipc_now_ns() > turn->until))
			Py_RETURN_TRUE;
		if (has_taken)
			continue;
		if (span_ns <= 0)
			return PyBool_FromLong(is_any);
		if (is_due_elsewhere(turn))
			Py_RETURN_TRUE;
		if (look_out(turn, span_ns))
			continue;
		if (is_due_elsewhere(turn))
			Py_RETURN_TRUE;
		int is_rung = sleep_until_bell(turn, others);
		if (is_rung < 0)
			return NULL;
		if (is_rung == 0)
			Py_RETURN_FALSE;
	}
}

PyObject *ipc_turn(PyObject *module, PyObject *args)
{
	PyObject *list;
	double span;
	int others[OTHERS];
	struct server *servers[CHANNELS_MAX];
	struct turn turn = { .state = PyModule_GetState(module), .servers = servers };
	if (!PyArg_ParseTuple(args, "O!Odii:turn", &PyTuple_Type, &list, &turn.here, &span, &others[0], &others[1]))
		return NULL;
	turn.count = PyTuple_Size(list);
	if (turn.count > CHANNELS_MAX) {
		PyErr_Format(PyExc_ValueError, "at most %d channels", CHANNELS_MAX);
		return NULL;
	}
	for (Py_ssize_t i = 0; i < turn.count; i++) {
		PyObject *one = PyTuple_GetItem(list, i);
		if (!Py_IS_TYPE(one, (PyTypeObject *)turn.state->server_type)) {
			PyErr_SetString(PyExc_TypeError, "turn: a tuple of Server");
			return NULL;
		}
		servers[i] = (struct server *)one; /* held by the tuple, which the caller holds */
	}
	PyObject *before = PyObject_GetAttrString(turn.here, "channel");
	if (before == NULL)
		return NULL;
	PyObject *result = run_turn(&turn, (int64_t)(span * 1000), others);
	PyObject *type, *value, *traceback;
	PyErr_Fetch(&type, &value, &traceback);
	if (turn.present != NULL && PyObject_SetAttrString(turn.here, "channel", before) < 0)
		PyErr_Clear();
	PyErr_Restore(type, value, traceback);
	Py_DECREF(before);
	return result;
}

PyObject *ipc_waiting(PyObject *module, PyObject *nothing)
{
	(void)nothing;
	const struct ipc_busy_poll *busy_poll = &((struct ipc_state *)PyModule_GetState(module))->busy_poll;
	return Py_BuildValue("{sKsKsKsKsKsK}", "looks", busy_poll->looks, "found", busy_poll->found, "sleeps",
		busy_poll->sleeps, "parted", busy_poll->parted, "joined", busy_poll->joined, "bells", busy_poll->bells);
}

static PyObject *server_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
	static char *names[] = { "rx", "tx", "bell", "segment", "exposed", "channel", NULL };
	PyObject *rx, *tx, *segment, *exposed, *channel;
	int bell;
	if (!PyArg_ParseTupleAndKeywords(
		    args, named, "OOiOO!O:Server", names, &rx, &tx, &bell, &segment, &PyDict_Type, &exposed, &channel))
		return NULL;
	PyObject *module = PyType_GetModule(type);
	PyObject *ring_type = module == NULL ? NULL : PyObject_GetAttrString(module, "SharedRingBuffer");
	if (ring_type == NULL)
		return NULL;
	int are_rings = Py_IS_TYPE(rx, (PyTypeObject *)ring_type) && Py_IS_TYPE(tx, (PyTypeObject *)ring_type)
			&& !((struct ring *)rx)->core.is_producer && ((struct ring *)tx)->core.is_producer;
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
	if (server->segment.len < (Py_ssize_t)(IPC_SEGMENT_STATISTICS + sizeof *server->statistics)) {
		PyErr_SetString(PyExc_ValueError, "the segment has no room for statistics");
		Py_DECREF(server);
		return NULL;
	}
	server->statistics = (struct statistics *)(void *)((char *)server->segment.buf + IPC_SEGMENT_STATISTICS);
	server->interrupts = (const uint64_t *)(const void *)((const char *)server->segment.buf + IPC_SEGMENT_GONE);
	server->wanted = PySet_New(NULL);
	if (server->wanted == NULL) {
		Py_DECREF(server);
		return NULL;
	}
	server->rx = (struct ring *)Py_NewRef(rx);
	server->tx = (struct ring *)Py_NewRef(tx);
	server->exposed = Py_NewRef(exposed);
	server->channel = Py_NewRef(channel);
	server->bell = bell;
	server->state = PyModule_GetState(module);
	return (PyObject *)server;
}

static void server_dealloc(PyObject *self)
{
	struct server *server = (struct server *)self;
	PyTypeObject *type = Py_TYPE(self);
	Py_XDECREF((PyObject *)server->rx);
	Py_XDECREF((PyObject *)server->tx);
	Py_XDECREF(server->exposed);
	Py_XDECREF(server->channel);
	Py_XDECREF(server->wanted);
	if (server->is_held)
		PyBuffer_Release(&server->segment);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
	release(self);
	Py_DECREF(type);
}

/* Channel and server hold each other: closing one releases the other. */
static PyObject *server_close(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct server *server = (struct server *)self;
	PyObject *channel = server->channel;
	server->channel = Py_NewRef(Py_None);
	server->bell = -1;
	server->is_queueing = 1;
	Py_XDECREF(channel);
	Py_RETURN_NONE;
}

static struct ipc_state *state_of(PyObject *self)
{
	return PyType_GetModuleState(Py_TYPE(self));
}

static PyObject *server_perform(PyObject *self, PyObject *args)
{
	unsigned long long number;
	PyObject *function, *given, *named;
	if (!PyArg_ParseTuple(args, "KOO!O:perform", &number, &function, &PyTuple_Type, &given, &named))
		return NULL;
	int is_error;
	PyObject *value = perform((struct server *)self, state_of(self), number, function, given,
		named == Py_None ? NULL : named, &is_error);
	return Py_BuildValue("(NO)", value, is_error ? Py_True : Py_False);
}

/* Before a look: later changes count as new again. */
static PyObject *server_acknowledge(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	struct server *server = (struct server *)self;
	server->seen = __atomic_load_n(server->interrupts, __ATOMIC_SEQ_CST);
	Py_RETURN_NONE;
}

static PyObject *server_want(PyObject *self, PyObject *number)
{
	struct server *server = (struct server *)self;
	if (PySet_Add(server->wanted, number) < 0)
		return NULL;
	unsigned long long wanted = PyLong_AsUnsignedLongLong(number);
	if (wanted == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	for (struct ipc_frame *frame = state_of(self)->innermost; frame != NULL; frame = frame->outer)
		if (frame->server == server && frame->number == wanted)
			frame->due_ns = 0; /* asked once more, so raised once more */
	Py_RETURN_NONE;
}

static PyObject *server_running(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	PyObject *numbers = PyList_New(0);
	for (struct ipc_frame *frame = state_of(self)->innermost; frame != NULL && numbers != NULL;
		frame = frame->outer) {
		PyObject *number =
			(PyObject *)frame->server == self ? PyLong_FromUnsignedLongLong(frame->number) : NULL;
		if (number != NULL && PyList_Append(numbers, number) < 0)
			Py_CLEAR(numbers);
		Py_XDECREF(number);
	}
	return numbers;
}

static PyObject *server_has_news(PyObject *self, void *nothing)
{
	(void)nothing;
	return PyBool_FromLong(has_news((struct server *)self));
}

static PyGetSetDef server_getters[] = {
	{ "has_news", server_has_news, NULL, "The client has asked for an interrupt, or is gone, since the last look.",
		NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyObject *interrupt(struct ipc_state *state, struct ipc_frame *frame)
{
	postpone(frame);
	PyErr_SetString(state->interrupted, "interrupted by the client");
	return NULL;
}

/* The frame of this thread that runs the user's code, or NULL. */
static struct ipc_frame *own_frame(const struct ipc_state *state)
{
	struct ipc_frame *frame = state->innermost;
	return frame != NULL && frame->thread == PyThread_get_thread_ident() ? frame : NULL;
}

PyObject *ipc_shield(PyObject *module, PyObject *nothing)
{
	(void)nothing;
	struct ipc_frame *frame = own_frame(PyModule_GetState(module));
	if (frame == NULL || !frame->is_in_user)
		Py_RETURN_FALSE;
	frame->is_in_user = 0;
	take_back(frame);
	Py_RETURN_TRUE;
}

PyObject *ipc_unshield(PyObject *module, PyObject *nothing)
{
	(void)nothing;
	struct ipc_state *state = PyModule_GetState(module);
	struct ipc_frame *frame = own_frame(state);
	if (frame == NULL)
		Py_RETURN_NONE;
	frame->is_in_user = 1;
	if (is_due(frame))
		return interrupt(state, frame);
	Py_RETURN_NONE;
}

PyObject *ipc_check(PyObject *module, PyObject *nothing)
{
	(void)nothing;
	struct ipc_state *state = PyModule_GetState(module);
	struct ipc_frame *frame = own_frame(state);
	if (is_due(frame))
		return interrupt(state, frame);
	Py_RETURN_NONE;
}

PyObject *ipc_deliver(PyObject *module, PyObject *nothing)
{
	(void)nothing;
	struct ipc_state *state = PyModule_GetState(module);
	struct ipc_frame *frame = state->innermost;
	if (frame == NULL || !frame->is_in_user || frame->is_sent || !is_due(frame))
		Py_RETURN_FALSE;
	if (frame->thread == PyThread_get_thread_ident())
		return interrupt(state, frame);
	postpone(frame);
	frame->is_sent = 1;
	PyThreadState_SetAsyncExc(frame->thread, state->interrupted);
	Py_RETURN_TRUE;
}

PyObject *ipc_raised(PyObject *module, PyObject *nothing)
{
	(void)nothing;
	struct ipc_frame *frame = own_frame(PyModule_GetState(module));
	if (frame != NULL)
		frame->is_sent = 0;
	Py_RETURN_NONE;
}

PyObject *ipc_present(PyObject *module, PyObject *nothing)
{
	(void)nothing;
	const struct ipc_frame *frame = own_frame(PyModule_GetState(module));
	if (frame == NULL)
		Py_RETURN_NONE;
	return Py_BuildValue("(OK)", frame->server->channel, (unsigned long long)frame->number);
}

PyObject *ipc_forget(PyObject *module, PyObject *nothing)
{
	(void)nothing;
	struct ipc_state *state = PyModule_GetState(module);
	state->innermost = NULL;
	Py_RETURN_NONE;
}

static PyMethodDef server_methods[] = {
	{ "close", server_close, METH_NOARGS, "Answers no more, and forgets the channel." },
	{ "perform", server_perform, METH_VARARGS,
		"perform(number, function, args, kwargs) -> (object, bool)\n\n"
		"Runs code of the user's for a request: its value and False, or its exception and True. Interrupts are "
		"raised in it alone." },
	{ "acknowledge", server_acknowledge, METH_NOARGS, "What the client asks for from now on is news." },
	{ "want", server_want, METH_O,
		"want(number)\n\nThe client wants this request interrupted, once more perhaps." },
	{ "running", server_running, METH_NOARGS,
		"Numbers of its requests whose code runs, or waits for one that does." },
	{ NULL, NULL, 0, NULL },
};

/* Not in the stable ABI under its own names before 3.12: structmember.h has the old ones. */
#include <structmember.h>

static PyMemberDef server_members[] = {
	{ "wanted", T_OBJECT_EX, offsetof(struct server, wanted), READONLY,
		"Numbers of requests to be interrupted that have not ended." },
	{ "last", T_ULONGLONG, offsetof(struct server, last), READONLY,
		"The highest number of a request that has begun, or was refused." },
	{ "is_gone", T_BOOL, offsetof(struct server, is_gone), 0,
		"The client is gone: nothing of it begins or goes on." },
	{ "is_looked_at", T_BOOL, offsetof(struct server, is_looked_at), 0,
		"A thread is taking what the client wants interrupted." },
	{ "is_paused", T_BOOL, offsetof(struct server, is_paused), 0, "Another thread takes messages." },
	{ "is_queueing", T_BOOL, offsetof(struct server, is_queueing), 0,
		"Messages wait for room; later ones must not overtake." },
	{ "is_leaving", T_BOOL, offsetof(struct server, is_leaving), 0, "The turn ends before the next message." },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot server_slots[] = {
	{ Py_tp_new, (void *)server_new },
	{ Py_tp_dealloc, (void *)server_dealloc },
	{ Py_tp_methods, server_methods },
	{ Py_tp_members, server_members },
	{ Py_tp_getset, server_getters },
	{ Py_tp_doc, "Server(rx, tx, bell, segment, exposed, channel)\n\nThe worker's end of a channel, for the usual "
		     "calls." },
	{ 0, NULL },
};

PyType_Spec ipc_server_spec = {
	.name = "ipcctl._ipcctl.Server",
	.basicsize = sizeof(struct server),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = server_slots,
};
