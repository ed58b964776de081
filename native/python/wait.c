/* One thread waiting for many channels. */
#include "ipcctl.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MAX 1e6 /* seconds, as in pure Python */

static int add_fds(PyObject *list, struct pollfd *polled, Py_ssize_t count)
{
	for (Py_ssize_t i = 0; i < count; i++) {
		PyObject *item = PySequence_GetItem(list, i);
		if (item == NULL)
			return -1;
		int fd = PyObject_AsFileDescriptor(item);
		Py_DECREF(item);
		if (fd < 0)
			return -1;
		polled[i].fd = fd;
		polled[i].events = POLLIN;
		polled[i].revents = 0;
	}
	return 0;
}

/* The other side has the same eventfd and could empty it first: never a read that blocks. */
static void drain(int fd)
{
	uint64_t count;
	struct iovec to = { &count, sizeof count };
	ssize_t got;
	do {
		got = preadv2(fd, &to, 1, -1, RWF_NOWAIT);
	} while (got < 0 && errno == EINTR);
	/* Kernels before 5.8 know no RWF_NOWAIT for eventfds. */
	if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		got = read(fd, &count, sizeof count);
	(void)got;
}

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* How many are ready, or -1 with an exception; without the GIL while it waits. */
static int poll_all(struct pollfd *polled, Py_ssize_t bells, Py_ssize_t total, int64_t span)
{
	int64_t deadline = span < 0 ? 0 : now() + span;
	for (;;) {
		struct timespec rest = { span / 1000000000, span % 1000000000 };
		int ready, error;
		Py_BEGIN_ALLOW_THREADS
		ready = ppoll(polled, (nfds_t)total, span < 0 ? NULL : &rest, NULL);
		error = errno;
		if (ready > 0)
			for (Py_ssize_t i = 0; i < bells; i++)
				if (polled[i].revents & POLLIN)
					drain(polled[i].fd);
		Py_END_ALLOW_THREADS
		if (ready >= 0)
			return ready;
		if (error != EINTR) {
			errno = error;
			PyErr_SetFromErrno(PyExc_OSError);
			return -1;
		}
		if (PyErr_CheckSignals() < 0)
			return -1;
		if (span >= 0) {
			span = deadline - now();
			if (span < 0)
				span = 0;
		}
	}
}

PyObject *ipc_wait(PyObject *module, PyObject *args)
{
	(void)module;
	PyObject *bell_arg, *life_arg, *timeout, *bells = NULL, *lives = NULL, *result = NULL;
	struct pollfd few[32], *polled = few;
	if (!PyArg_ParseTuple(args, "OOO:wait", &bell_arg, &life_arg, &timeout))
		return NULL;
	int64_t span = -1;
	if (timeout != Py_None) {
		double seconds = PyFloat_AsDouble(timeout);
		if (seconds == -1.0 && PyErr_Occurred())
			return NULL;
		if (!(seconds >= 0)) {
			PyErr_SetString(PyExc_ValueError, "timeout must not be negative");
			return NULL;
		}
		span = (int64_t)((seconds < WAIT_MAX ? seconds : WAIT_MAX) * 1e9);
	}
	/* Tuples: an item's fileno() is the user's code and could change a list. */
	bells = PySequence_Tuple(bell_arg);
	lives = bells == NULL ? NULL : PySequence_Tuple(life_arg);
	if (lives == NULL)
		goto done;
	Py_ssize_t bell_count = PyTuple_Size(bells), total = bell_count + PyTuple_Size(lives);
	if (total > (Py_ssize_t)(sizeof few / sizeof *few)) {
		polled = PyMem_Malloc((size_t)total * sizeof *polled);
		if (polled == NULL) {
			PyErr_NoMemory();
			goto done;
		}
	}
	if (add_fds(bells, polled, bell_count) < 0 || add_fds(lives, polled + bell_count, total - bell_count) < 0)
		goto done;
	if (poll_all(polled, bell_count, total, span) < 0)
		goto done;
	result = PyList_New(0);
	for (Py_ssize_t i = 0; i < total && result != NULL; i++) {
		if (polled[i].revents == 0)
			continue;
		if (polled[i].revents & POLLNVAL) {
			errno = EBADF; /* would be ready for ever */
			PyErr_SetFromErrno(PyExc_OSError);
			Py_CLEAR(result);
			break;
		}
		PyObject *index = PyLong_FromSsize_t(i);
		if (index == NULL || PyList_Append(result, index) < 0)
			Py_CLEAR(result);
		Py_XDECREF(index);
	}
done:
	if (polled != few)
		PyMem_Free(polled);
	Py_XDECREF(bells);
	Py_XDECREF(lives);
	return result;
}
