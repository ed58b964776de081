/* The module: its state and its table of functions. */
#include "ipcctl.h"

#include <stddef.h>

static const struct {
	const char *name;
	size_t offset;
	int shown; /* also an attribute of the module */
} taken[] = {
	{ "undefined", offsetof(struct ipc_state, undefined), 1 },
	{ "EncodeError", offsetof(struct ipc_state, encode_error), 1 },
	{ "DecodeError", offsetof(struct ipc_state, decode_error), 1 },
	{ "BrokenChannel", offsetof(struct ipc_state, broken_channel), 1 },
	{ "Refused", offsetof(struct ipc_state, refused), 0 },
	{ "failure", offsetof(struct ipc_state, failure), 0 },
	{ "lower", offsetof(struct ipc_state, lower), 0 },
	{ "big_bytes", offsetof(struct ipc_state, big_bytes), 0 },
	{ "revive", offsetof(struct ipc_state, revive), 0 },
	{ "revive_array", offsetof(struct ipc_state, revive_array), 0 },
	{ "StreamRef", offsetof(struct ipc_state, stream_ref), 0 },
	{ "Interrupted", offsetof(struct ipc_state, interrupted), 0 },
};
#define TAKEN (sizeof taken / sizeof *taken)

static PyObject **slot_of(struct ipc_state *state, size_t i)
{
	return (PyObject **)((char *)state + taken[i].offset);
}

static int add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
	PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
	if (type == NULL)
		return -1;
	int rc = PyModule_AddObjectRef(module, name, type);
	Py_DECREF(type);
	return rc;
}

static int module_exec(PyObject *module)
{
	struct ipc_state *state = PyModule_GetState(module);
	/* Put there by who loads it: by its name the script may have something else. */
	PyObject *types = PyObject_GetAttrString(module, "_types");
	if (types == NULL)
		return -1;
	for (size_t i = 0; i < TAKEN; i++) {
		PyObject *value = PyObject_GetAttrString(types, taken[i].name);
		*slot_of(state, i) = value;
		if (value == NULL || (taken[i].shown && PyModule_AddObjectRef(module, taken[i].name, value) < 0)) {
			Py_DECREF(types);
			return -1;
		}
	}
	Py_DECREF(types);
	if (PyModule_AddStringConstant(module, "EDITION", IPC_EDITION) < 0)
		return -1;
	if (add_type(module, "SharedRingBuffer", &ipc_ring_spec) < 0
		|| add_type(module, "Server", &ipc_server_spec) < 0)
		return -1;
	struct ipc_state *own = PyModule_GetState(module);
	own->server_type = PyObject_GetAttrString(module, "Server");
	return own->server_type == NULL ? -1 : 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
	struct ipc_state *state = PyModule_GetState(module);
	if (state != NULL)
		for (size_t i = 0; i < TAKEN; i++)
			Py_VISIT(*slot_of(state, i));
	if (state != NULL)
		Py_VISIT(state->server_type);
	return 0;
}

static int module_clear(PyObject *module)
{
	struct ipc_state *state = PyModule_GetState(module);
	if (state != NULL)
		for (size_t i = 0; i < TAKEN; i++)
			Py_CLEAR(*slot_of(state, i));
	if (state != NULL)
		Py_CLEAR(state->server_type);
	return 0;
}

static void module_free(void *module)
{
	module_clear(module);
}

static PyMethodDef methods[] = {
	{ "dumps", (PyCFunction)(void (*)(void))ipc_dumps, METH_FASTCALL | METH_KEYWORDS,
		"dumps(value, size_max=None) -> bytes\n\nThe value as CBOR; EncodeError where it has no form." },
	{ "loads", ipc_loads, METH_O,
		"loads(buffer) -> object\n\nThe value of one CBOR item; DecodeError where it is none." },
	{ "turn", ipc_turn, METH_VARARGS,
		"turn(servers, here, microseconds, fd, fd) -> object\n\n"
		"Answers calls on all channels as long as they come, looking out for the next one where that pays, for "
		"so long at most (0: not at all), then\n"
		"sleeping until a client rings or one of the descriptors is ready. False: no call came. True: look "
		"around, then go on.\n"
		"(channel, what) for Python: None: what comes is for the thorough way. False: the channel is broken. A "
		"list: a message.\n"
		"A tuple (number, value or exception, whether it is an exception, when it began): an answer." },
	{ "shield", ipc_shield, METH_NOARGS,
		"shield() -> bool\n\nFrom here on no interrupt is raised in this thread; True if one could have been, "
		"and unshield() is due." },
	{ "unshield", ipc_unshield, METH_NOARGS, "Interrupts are raised again, at once where one has come meanwhile." },
	{ "check", ipc_check, METH_NOARGS,
		"Raises the interrupt of the innermost request of this thread, if one is due." },
	{ "deliver", ipc_deliver, METH_NOARGS,
		"deliver() -> bool\n\nRaises the interrupt of the innermost request if its code runs: here, or in the "
		"thread that runs it." },
	{ "raised", ipc_raised, METH_NOARGS, "An interrupt that was sent to this thread has been raised." },
	{ "present", ipc_present, METH_NOARGS,
		"present() -> (channel, number) | None\n\nThe request whose code this thread runs; the channel is None "
		"once it is closed." },
	{ "forget", ipc_forget, METH_NOARGS, "In a forked child: nothing runs here for anybody." },
	{ "waiting", ipc_waiting, METH_NOARGS,
		"waiting() -> dict\n\nHow often this process looked out, found something, slept, was moved, and rang, "
		"since it began." },
	{ NULL, NULL, 0, NULL },
};

static PyModuleDef_Slot slots[] = {
	{ Py_mod_exec, (void *)module_exec },
	{ 0, NULL },
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "ipcctl._ipcctl",
	.m_doc = "The data plane's lowest layer: values, rings, calls.",
	.m_size = sizeof(struct ipc_state),
	.m_methods = methods,
	.m_slots = slots,
	.m_traverse = module_traverse,
	.m_clear = module_clear,
	.m_free = module_free,
};

PyMODINIT_FUNC PyInit__ipcctl(void);

PyMODINIT_FUNC PyInit__ipcctl(void)
{
	return PyModuleDef_Init(&definition);
}
