"""Where our package comes from, and what it imports: the standard library, whatever lies beside the script.

A file ``json.py`` in the script's folder, or one that the script has imported, belongs to the script. What we import by
that name is Python's own: a private copy, under another name in ``sys.modules``. The package itself is kept here as
well, where no folder of its name can replace it; ``import ipcctl`` in the script finds it through :class:`Finder`.
"""

import _thread
import builtins
import os
import sys
from _frozen_importlib import (
    BuiltinImporter,
    FrozenImporter,
    _DeadlockError,
    _module_locks,
    _ModuleLockManager,
    module_from_spec,
)
from _frozen_importlib_external import PathFinder

PACKAGE = "ipcctl"
OLDEST = (3, 11)
_NAMES = getattr(sys, "stdlib_module_names", frozenset())
_import = builtins.__import__


def _standard_folders():
    library = os.path.dirname(os.__file__)
    version = os.path.basename(library)
    for entry in sys.path:
        folder, name = os.path.split(entry)
        is_zip = name == "python%d%d.zip" % sys.version_info[:2]
        if entry == library or is_zip or (name == "lib-dynload" and os.path.basename(folder) == version):
            yield entry


#: Far from descriptors that the script opens, which may rely on the lowest numbers.
_HELD = 198


def _hold(path):
    """The socket without a connection, before root becomes another user: descriptor and identity."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.fstat(_HELD)
    except OSError:  # it is free
        try:
            os.dup2(descriptor, _HELD, False)
            os.close(descriptor)
            descriptor = _HELD
        except OSError:  # above the limit of this process
            pass
    return descriptor, _identity(descriptor)


def _identity(descriptor):
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


class Library:
    """Our modules. Code in them imports with :meth:`import_`, at the top and later."""

    def __init__(self, folder):
        self.folder = folder  # the folder of the package
        self.spawned = os.path.join(folder, "spawned")  # where it is found without us
        self.modules = {}  # by name: those that nobody else has
        self.plane = os.environ.get("IPCCTL_PLANE")  # the script may empty its environment
        self._held = None
        self._pid = os.getpid()
        if self.plane is not None and os.geteuid() == 0 and hasattr(os, "O_PATH"):
            for name in ("setuid", "seteuid", "setreuid", "setresuid"):
                if hasattr(os, name):
                    setattr(os, name, self._holding(getattr(os, name)))
        self.standard_folders = list(_standard_folders())
        self.origins = {}  # of modules of the standard library
        self.builtins = dict(vars(builtins), __import__=self.import_)
        self.threads = type(sys)("_thread")  # as it is before another library, such as gevent, replaces threads
        self.threads.__dict__.update(_thread.__dict__)

    def _holding(self, change):
        def changed(*ids):
            if self._held is None and os.getpid() == self._pid:  # a forked process serves nobody
                self._held = _hold(self.plane)
            return change(*ids)

        changed.__name__ = changed.__qualname__ = change.__name__
        changed.__doc__, changed.__module__ = change.__doc__, change.__module__
        return changed

    def held_plane(self):
        """The shim's socket for a script that has left root and can no longer reach its path: a descriptor, or None."""
        if self._held is None:
            return None
        descriptor, identity = self._held
        try:
            return descriptor if _identity(descriptor) == identity else None
        except OSError:  # the script has closed all its descriptors
            return None

    # ---- what an import statement in our code does ----

    def import_(self, name, globals=None, locals=None, fromlist=(), level=0):
        full = name
        if name == "_thread":
            return self.threads
        if level:
            base = globals["__package__"].rsplit(".", level - 1)[0]
            full = base + "." + name if name else base
        top = full.partition(".")[0]
        is_ours = self.is_private(top) or (top in _NAMES and _is_missing(full, fromlist) and self.is_shadowed())
        if not is_ours:
            return _import(name, globals, locals, fromlist, level)
        module = self.module(full)
        if not fromlist:
            return module if level else self.module(top)
        if hasattr(module, "__path__"):
            for part in fromlist:
                if part != "*" and not hasattr(module, part):  # also a module that another thread is just loading
                    try:
                        self.module(full + "." + part)
                    except ModuleNotFoundError as error:
                        if error.name != full + "." + part:
                            raise
        return module

    def is_private(self, top):
        """Whether it is ours, or part of the standard library and shadowed by the script."""
        if top == PACKAGE or top in self.modules:
            return True
        if top not in _NAMES:
            return False
        origin = self.origin(top)
        if origin is None:
            return False
        if top in sys.modules:
            if (
                top == "traceback" and self.is_shadowed()
            ):  # it imports while it prints, and has no state that others would miss
                return True
            return _origin_of(sys.modules[top]) != origin
        found = PathFinder.find_spec(top) if os.path.isabs(origin) else None
        return found is not None and found.origin != origin

    def is_shadowed(self):
        """Whether something of the script has the name of a standard module."""
        for entry in sys.path:
            if entry in self.standard_folders:
                break
            if not isinstance(entry, str):  # Python ignores such entries
                continue
            try:
                names = os.listdir(entry or ".")
            except OSError:  # a zip
                names = [name for name in _NAMES if PathFinder.find_spec(name, [entry])]
            if any(name.partition(".")[0] in _NAMES for name in names):
                return True
        return any(
            self.origin(name) not in (None, _origin_of(sys.modules[name])) for name in _NAMES.intersection(sys.modules)
        )

    def origin(self, top):
        if top not in self.origins:
            spec = self.find(top, self.standard_folders)
            self.origins[top] = None if spec is None else spec.origin
        return self.origins[top]

    # ---- what importlib does, with other tables ----

    def module(self, name):
        """The module, loaded if necessary. Waits for a thread that is just loading it."""
        package = name.rpartition(".")[0]
        if package:
            self.module(package)  # before the lock is taken, which the thread that loads the package may need
        is_private = self.is_private(name.partition(".")[0])
        modules = self.modules if is_private else sys.modules
        found = modules.get(name)
        if found is None or _is_half_loaded(found):
            try:
                with _ModuleLockManager(PACKAGE + ":" + name if is_private else name):
                    return modules.get(name) or self.load(name, modules)
            except _DeadlockError:  # two threads load what the other one needs: take it as it is, like Python does
                found = modules.get(name)
                if found is None:
                    raise
        return found

    def load(self, name, modules):
        if name == PACKAGE and sys.version_info < OLDEST:
            raise ImportError("ipcctl needs Python %d.%d or newer; this is %d.%d" % (OLDEST + sys.version_info[:2]))
        package_name, _, child = name.rpartition(".")
        package = self.module(package_name) if package_name else None
        path = [self.folder] if name == PACKAGE else self.standard_folders
        spec = self.find(name, path if package is None else getattr(package, "__path__", ()))
        if (
            spec is None or spec.loader is None or (name == "_asyncio" and "asyncio" in self.modules)
        ):  # it would find the script's
            raise ModuleNotFoundError("No module named %r" % name, name=name)
        before = sys.modules.get(name)
        module = module_from_spec(spec)
        if modules is not sys.modules and sys.modules.get(name) is not before:  # as some extensions do
            _restore(name, before)
        modules[name] = module
        spec._initializing = True
        try:
            modules[name] = module = self.run(name, module, modules is not sys.modules)
        except BaseException:
            _forget(modules, name)
            raise
        finally:
            spec._initializing = False
        if name == PACKAGE + "._console":
            module.plane = self.plane
            module.held_plane = self.held_plane
        if package is not None:
            setattr(package, child, module)  # only when it is complete, because another thread would not wait for it
        return module

    def run(self, name, module, is_private):
        """Runs its code and returns the module, which may have replaced itself."""
        loader = module.__spec__.loader
        code = loader.get_code(name) if hasattr(loader, "get_code") else None
        if code is None:
            with _Lent(self, "collections", "collections.abc"):
                loader.exec_module(module)
            return module
        namespace = module.__dict__
        namespace["__builtins__"] = self.builtins
        if name.partition(".")[0] == PACKAGE:
            exec(code, namespace)
            return module
        shelf = PACKAGE + ":" + name if is_private else name
        namespace["__name__"] = shelf  # some modules look themselves up by name
        sys.modules[shelf] = module
        with _Lent(self, "typing"):
            exec(code, namespace)
        return sys.modules[shelf]

    def forget_others(self):
        """In a forked child: modules that another thread was loading are loaded anew, because that thread does not
        exist here.
        """
        own = _thread.get_ident()
        for name, reference in list(_module_locks.items()):
            lock = reference()
            if lock is None or lock.owner == own:
                continue
            _module_locks.pop(name, None)
            if lock.owner is None:
                continue
            shelf, _, full = name.rpartition(":")
            for modules, key in ((sys.modules, name), (self.modules, full)) if shelf else ((sys.modules, name),):
                if key in modules and _is_half_loaded(modules[key]):
                    _forget(modules, key)

    def find(self, name, path):
        spec = None if "." in name else BuiltinImporter.find_spec(name) or FrozenImporter.find_spec(name)
        return spec or PathFinder.find_spec(name, path)

    # ---- what the script finds under the package's name ----

    def is_elsewhere(self):
        """Whether the script finds an installed ``ipcctl`` that can serve. A folder of that name does not count, nor
        does the script itself.
        """
        found = sys.modules.get(PACKAGE)
        if found is not None and found is self.modules.get(PACKAGE):
            return False
        if found is not None and not _is_half_loaded(found):
            return hasattr(found, "serve")
        spec = PathFinder.find_spec(PACKAGE) if found is None else found.__spec__  # the script is just importing it
        if (
            spec is None
            or spec.loader is None
            or not spec.has_location
            or spec.origin.startswith(self.spawned + os.sep)
        ):
            return False
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        if script is not None and os.path.abspath(script) == os.path.abspath(spec.origin):
            return False
        try:
            source = spec.loader.get_source(PACKAGE)
            return source is None or "serve" in compile(source, spec.origin, "exec", dont_inherit=True).co_names
        except (ImportError, SyntaxError, ValueError):
            return False

    def console(self):
        """The module that accepts clients: that of the installed package if the script would use it, because there must
        be only one.
        """
        if self.is_elsewhere():
            found = sys.modules.get(PACKAGE) or PathFinder.find_spec(PACKAGE)
            path = getattr(found, "__path__", None) or getattr(found, "submodule_search_locations", None)
            if path and PathFinder.find_spec(PACKAGE + "._console", path):
                return _import(PACKAGE + "._console", fromlist=["serve"])
        return self.module(PACKAGE + "._console")

    def refuse(self, error):
        """Tells clients why there is no console, in a thread of its own."""
        spec = PathFinder.find_spec("_ipcctl_refusal", [os.path.dirname(os.path.abspath(__file__))])
        refusal = module_from_spec(spec)
        spec.loader.exec_module(refusal)
        refusal.refuse(self, error)

    def loaded_console(self):
        """Without importing anything. None if it does not exist, or a thread is just loading it."""
        for modules in (self.modules, sys.modules):
            found = modules.get(PACKAGE + "._console")
            if found is not None and not _is_half_loaded(found):
                return found
        return None


class _Lent:
    """Puts modules of ours into ``sys.modules`` while C code that looks there is loaded."""

    def __init__(self, library, *names):
        self.lent = {name: library.modules.get(name) for name in names}

    def __enter__(self):
        self.before = {name: sys.modules.get(name) for name in self.lent}
        for name, module in self.lent.items():
            if module is not None:
                sys.modules[name] = module

    def __exit__(self, *_):
        for name, module in self.lent.items():
            if module is not None and sys.modules.get(name) is module:
                _restore(name, self.before[name])


def _restore(name, module):
    if module is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = module


def _forget(modules, name):
    """As if nobody had begun to load it: parts of a package that are loaded already would be missing as attributes next
    time.
    """
    for key in [key for key in modules if key == name or key.startswith(name + ".")]:
        modules.pop(key, None)
    if name == PACKAGE:
        sys.modules.pop(PACKAGE + "._ipcctl", None)  # which knows classes of the others


def _is_missing(name, parts):
    """Whether this import has to load something: the module, or one within it."""
    found = sys.modules.get(name)
    if found is None:
        return True
    return hasattr(found, "__path__") and any(not hasattr(found, part) for part in parts or () if part != "*")


def _is_half_loaded(module):
    return getattr(getattr(module, "__spec__", None), "_initializing", False)


def _origin_of(module):
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    return getattr(module, "__file__", None) if origin is None else origin


class Finder:
    """Gives the script our package, with the same modules that the console uses."""

    def __init__(self, library):
        self.library = library

    def find_spec(self, name, path=None, target=None):
        package, _, rest = name.partition(".")
        if package != PACKAGE:
            return None
        library = self.library
        if rest and sys.modules.get(PACKAGE) is not library.modules.get(PACKAGE):
            return None
        if not rest and library.is_elsewhere():
            return None
        spec = PathFinder.find_spec(name, path if rest else [library.folder])
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec):
        return self.library.module(spec.name)

    def exec_module(self, module):
        pass  # it is done
