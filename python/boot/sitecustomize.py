"""Runs in every Python that ipcctl starts, before the script, and leaves next to no trace.

It makes ``import ipcctl`` work without an installation, and puts a handler on SIGURG (which is ignored by default and
used by nobody) so that ``ipcctl eval`` can ask for a console. Until then there is no thread and no descriptor.
Unbuffered output, which ipcctl asks for, is made to bear signals. The folder of this file and the variable that led
here are taken away again, and the user's own sitecustomize is run as if this one were not there.
"""


def _begin() -> None:
    import os
    import sys
    from _frozen_importlib_external import PathFinder

    here = os.path.dirname(os.path.abspath(__file__))
    first, _, rest = os.environ.get("PYTHONPATH", "").partition(os.pathsep)
    if first == here:
        if rest:
            os.environ["PYTHONPATH"] = rest
        else:
            del os.environ["PYTHONPATH"]
    from _ipcctl_library import Finder, Library
    from _ipcctl_stdio import make_whole

    make_whole()
    sys.path[:] = [entry for entry in sys.path if entry != here]
    library = Library(os.path.dirname(here))
    sys.path.append(library.spawned)  # handed on to processes of multiprocessing that are spawned, and run without this
    sys.meta_path.insert(0, Finder(library))  # before what looks into folders: one may be called so
    if os.environ.pop("IPCCTL_CONSOLE", "0") == "1" and "IPCCTL_PLANE" in os.environ:
        import _signal

        if sys.version_info < (3, 13):
            # Older ones take the thread that imports it first for the main thread, and that could be the console's.
            library.import_("threading")

        started = False
        plane_fd = os.environ.get("IPCCTL_PLANE_FD")

        def begin() -> None:
            nonlocal started
            if plane_fd is not None:
                os.environ.setdefault("IPCCTL_PLANE_FD", plane_fd)  # the script may have emptied it
            try:
                library.console().serve()
            except BaseException as error:
                try:
                    library.refuse(error)
                except OSError:  # no descriptor is left, perhaps: the next signal tries again
                    started = False

        def wake(number: int, frame: object) -> None:
            # In the main thread, between any two instructions of the script, perhaps in the middle of an import:
            # nothing may be imported here, and nothing raised but what interrupts a call.
            nonlocal started
            on_signal = getattr(library.loaded_console(), "on_signal", None)
            if on_signal is not None:  # whoever serves: the script itself, perhaps in a thread of its own
                on_signal()
            elif not started:
                started = True
                try:
                    library.threads.start_new_thread(begin, ())
                except (RuntimeError, MemoryError):  # no room for a thread: the next signal tries again
                    started = False

        if sys.version_info >= (3, 7):
            os.register_at_fork(after_in_child=library.forget_others)
        _signal.signal(_signal.SIGURG, wake)
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None and spec.origin != os.path.abspath(__file__):
        module = sys.modules["sitecustomize"]
        module.__spec__ = spec
        module.__file__ = spec.origin
        spec.loader.exec_module(module)


_begin()
del _begin
