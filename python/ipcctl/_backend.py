"""Chooses the implementation of the data plane's lowest layer: the C extension, or Python if it is missing.

`IPCCTL_PURE=1` chooses Python. `implementation` is "c" or "pure".
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec, module_from_spec  # importlib itself may be a file of the script
from _frozen_importlib_external import ExtensionFileLoader
from collections.abc import Callable
from types import ModuleType

from . import _pure, _types
from ._contract import ARCHITECTURES, EDITION, PARTS_FOLDERS
from ._types import (
    BrokenChannel,
    DecodeError,
    EncodeError,
    Interrupted,
    JavaScriptError,
    StreamRef,
    Tagged,
    Undefined,
    undefined,
)

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any, TypeGuard

__all__ = [
    "BrokenChannel",
    "DecodeError",
    "EncodeError",
    "Interrupted",
    "JavaScriptError",
    "Server",
    "SharedRingBuffer",
    "StreamRef",
    "Tagged",
    "Undefined",
    "check",
    "deliver",
    "dumps",
    "forget",
    "implementation",
    "loads",
    "present",
    "shield",
    "turn",
    "undefined",
    "unshield",
    "waiting",
]


def load_extension() -> ModuleType | None:
    """The C extension: beside the package, then among the compiled parts of the installation it belongs to; None if
    none loads. One of another version is refused: an installation may have been replaced only in part.
    """
    name = "ipcctl._ipcctl"
    if name in sys.modules:
        return sys.modules[name]
    here = os.path.dirname(os.path.abspath(__file__))
    installation = os.path.join(here, "..", "..")
    architecture = ARCHITECTURES.get(os.uname().machine, "")
    folders = [os.path.join(installation, parts.format(architecture), "python") for parts in PARTS_FOLDERS]
    other = None
    for folder in (here, *folders):
        path = os.path.join(folder, "_ipcctl.abi3.so")
        if not os.path.exists(path):
            continue
        loader = ExtensionFileLoader(name, path)
        spec = ModuleSpec(name, loader, origin=path)
        spec.has_location = True
        module: ModuleType | None
        try:
            module = module_from_spec(spec)
            setattr(module, "_types", _types)
            loader.exec_module(module)
        except ImportError:
            continue  # for another architecture or libc: pure Python works as well
        except AttributeError:  # it needs something that ours does not have
            module = None
        if _is_ours(module):
            sys.modules[name] = module
            return module
        other = path
    if other is not None:
        sys.stderr.write(
            f"ipcctl: {other} is of another version than {here}, so Python code does its work, which takes several times as long; see: ipcctl doctor\n"
        )
    return None


def _is_ours(module: ModuleType | None) -> TypeGuard[ModuleType]:
    """Whether it is of our version and complete: a part that was not rebuilt may differ within a version."""
    if getattr(module, "EDITION", None) != EDITION:
        return False
    return all(hasattr(module, name) for name in _TAKEN) and all(
        hasattr(getattr(module, made.__name__), name)
        for made in (_pure.Server, _pure.SharedRingBuffer)
        for name in _names_of(made)
    )


def _names_of(made: Any) -> tuple[str, ...]:
    """What Python code of ours makes public there: the C extension has to have it too."""
    return tuple(name for name in vars(made) if not name.startswith("_"))


_TAKEN = tuple(name for name in _names_of(_pure) if getattr(getattr(_pure, name), "__module__", None) == _pure.__name__)


_module = None if os.environ.get("IPCCTL_PURE") == "1" else load_extension()
implementation = "pure" if _module is None else "c"
_chosen = _pure if _module is None else _module
dumps = _chosen.dumps
loads = _chosen.loads
SharedRingBuffer = _chosen.SharedRingBuffer
Server: type[_pure.Server] = _chosen.Server
turn = _chosen.turn
#: Interrupts: raised only in the user's code that runs for a client.
shield, unshield, check, deliver, forget = (
    _chosen.shield,
    _chosen.unshield,
    _chosen.check,
    _chosen.deliver,
    _chosen.forget,
)
Interrupted.on_raise = _chosen.raised
#: The request whose code this thread runs.
present: Callable[[], tuple[Any, int] | None] = _chosen.present
waiting = _chosen.waiting
