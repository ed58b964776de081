/* What the parts of the extension share. */
#ifndef IPCCTL_PYTHON_H
#define IPCCTL_PYTHON_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "../ring/ring.h"
#include "busy_poll.h"

/* Taken from ipcctl._types once, so that C and pure Python raise the same classes and share the rare forms. */
struct ipc_state {
	PyObject *undefined;
	PyObject *encode_error;
	PyObject *decode_error;
	PyObject *broken_channel;
	PyObject *refused;
	PyObject *failure;
	PyObject *lower;
	PyObject *big_bytes;
	PyObject *revive;
	PyObject *revive_array;
	PyObject *stream_ref;
	PyObject *interrupted;
	PyObject *server_type;
	struct ipc_frame *innermost; /* the requests whose code runs: see server.c */
	/* One thread waits for all channels. */
	struct ipc_busy_poll busy_poll;
	struct ipc_load_meter meter;
	unsigned long long turns; /* begun */
	/* If more clients want an answer than can be awake at once. */
	size_t next; /* whose turn it is */
	unsigned stay_skip, stay_misses;
	uint32_t cores;
};

/* One end of a ring. */
struct ring {
	PyObject_HEAD Py_buffer view;
	struct ipc_ring core;
	struct ipc_busy_poll busy_poll; /* if one thread waits for this ring alone */
	int is_broken, is_held, is_resting;
	int was_roused; /* of a producer: the consumer, for a frame that was to follow */
	unsigned rouse_skip, rouse_misses;
};

/* Raises BrokenChannel for a negative result of the ring; returns -1. */
int ipc_ring_refuse(struct ring *ring, int result);
/* Busy-polls without the GIL. The caller then takes the message with the GIL, because another thread may have been
 * quicker. Returns whether something has arrived. Ends early if we were preempted, since somebody else needs the core.
 */
int ipc_watch(const struct ring *const *rings, Py_ssize_t count, int64_t span_ns, int *was_off);
/* The same if it pays, moving this thread if necessary. If nothing has arrived it is time to sleep. */
int ipc_look_out(struct ipc_state *state, struct ipc_busy_poll *busy_poll, const struct ring *const *rings,
	Py_ssize_t count, int64_t span_ns);
int64_t ipc_now_ns(void);

/* A CALL without keyword arguments and streams. The caller owns the references. */
struct ipc_call {
	uint64_t number;
	PyObject *name, *args;
};

/* 1; 0 for anything else, well-formed or not, without holding anything; -1 with an exception. */
int ipc_parse_call(struct ipc_state *state, const unsigned char *bytes, size_t size, struct ipc_call *call);
PyObject *ipc_decode(struct ipc_state *state, const unsigned char *bytes, size_t size);
/* Passes [1, number, value], encoded, to take; returns its result, or -1 with an exception. */
int ipc_encode_result(struct ipc_state *state, uint64_t number, PyObject *value,
	int (*take)(void *context, const unsigned char *bytes, size_t size), void *context);

extern PyType_Spec ipc_ring_spec;
extern PyType_Spec ipc_server_spec;

PyObject *ipc_dumps(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *ipc_loads(PyObject *module, PyObject *buffer);
PyObject *ipc_turn(PyObject *module, PyObject *args);
PyObject *ipc_shield(PyObject *module, PyObject *nothing);
PyObject *ipc_unshield(PyObject *module, PyObject *nothing);
PyObject *ipc_check(PyObject *module, PyObject *nothing);
PyObject *ipc_deliver(PyObject *module, PyObject *nothing);
PyObject *ipc_raised(PyObject *module, PyObject *nothing);
PyObject *ipc_forget(PyObject *module, PyObject *nothing);
PyObject *ipc_present(PyObject *module, PyObject *nothing);
PyObject *ipc_waiting(PyObject *module, PyObject *nothing);

#endif
