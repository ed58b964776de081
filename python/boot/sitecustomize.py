"""Runs in every Python that ipcctl starts, before the script, and leaves almost no trace.

It makes ``import ipcctl`` work without an installation, and installs a handler for SIGURG (ignored by default and
unused elsewhere), so that ``ipcctl eval`` can ask for a console. Until then there is no thread and no descriptor.
Unbuffered output, which ipcctl asks for, is made safe against signals. The folder of this file and the variable that
led here are removed again, and the user's own sitecustomize runs as if this one did not exist.
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
    sys.path.append(library.spawned)  # inherited by processes that multiprocessing spawns, which run without this file
    sys.meta_path.insert(0, Finder(library))  # before the finders that search folders, one of which may have that name
    if os.environ.pop("IPCCTL_CONSOLE", "0") == "1" and "IPCCTL_PLANE" in os.environ:
        import _signal

        if sys.version_info < (3, 13):
            # Older versions take the first thread that imports it for the main thread, and that could be the console's.
            library.import_("threading")

        started = False
        plane_fd = os.environ.get("IPCCTL_PLANE_FD")

        def begin() -> None:
            nonlocal started
            if plane_fd is not None:
                os.environ.setdefault("IPCCTL_PLANE_FD", plane_fd)  # the script may have removed it
            try:
                library.console().serve()
            except BaseException as error:
                try:
                    library.refuse(error)
                except OSError:  # perhaps no descriptor is left: the next signal tries again
                    started = False

        def wake(number: int, frame: object) -> None:
            # In the main thread, between any two instructions of the script, perhaps in the middle of an import:
            # nothing may be imported here, and nothing raised except to interrupt a call.
            nonlocal started
            on_signal = getattr(library.loaded_console(), "on_signal", None)
            if on_signal is not None:  # the server: the script itself, perhaps in its own thread
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
