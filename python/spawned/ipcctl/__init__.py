"""The package, for processes that a worker spawns: of it they have ``sys.path`` alone, whose last entry leads here."""

import os as _os

_folder = _os.path.join(_os.path.dirname(_os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))), "ipcctl")
__path__[:] = [_folder]
__file__ = _os.path.join(_folder, "__init__.py")
with open(__file__, encoding="utf-8") as _file:
    exec(compile(_file.read(), __file__, "exec"))
