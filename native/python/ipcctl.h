/* What the parts of the extension share. */
#ifndef IPCCTL_PYTHON_H
#define IPCCTL_PYTHON_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

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
};

extern PyType_Spec ipc_ring_spec;

PyObject *ipc_dumps(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *ipc_loads(PyObject *module, PyObject *buffer);
PyObject *ipc_wait(PyObject *module, PyObject *args);

#endif
