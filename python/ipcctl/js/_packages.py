"""Packages of npm in a folder, each file that is imported as one module.

What a package contains is not trusted: a process of its own, confined, which may read nothing but this folder, makes a
module of it. What it has made is kept, by the contents of the files that it was made of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, Literal

from .. import _contract
from .._client import cache_folder
from ._errors import BundleError
from ._maps import with_map

SCHEME = "npm:/"
_CONDITIONS = ("browser", "import", "module", "default")
_NAME = re.compile(r"(@[\w~-][\w.~-]*/)?[\w~-][\w.~-]*\Z", re.ASCII)
_ENDINGS = ("", ".js", ".mjs", ".cjs", ".json", ".ts", "/index.js", "/index.mjs", "/index.cjs", "/index.json")
_SPECIFIER_CHARS = 1000
_TIMEOUT_SECONDS = 60.0
_KEPT_MAX = 500


class Packages:
    """Those below one folder, which contains ``node_modules`` or is one."""

    def __init__(self, folder: str | os.PathLike[str], confine: bool | Literal["auto"]) -> None:
        """:raises ValueError: if there is no such folder"""
        root = os.path.realpath(folder)
        if os.path.basename(root) == "node_modules":
            root = os.path.dirname(root)
        if not os.path.isdir(os.path.join(root, "node_modules")):
            raise ValueError(f"modules: {os.fspath(folder)} has no folder node_modules; install packages there first")
        self.root = root
        self._confine = confine

    def resolve(self, specifier: str, referrer: str) -> str | None:
        """The URL of a package's file; None if this is the name of no package.

        :raises BundleError: the package has no such file
        """
        specifier = specifier.removeprefix("npm:") if not specifier.startswith(SCHEME) else specifier
        name, subpath = _split(specifier)
        if name is None:
            return None
        start = self._file_of(referrer) if referrer.startswith(SCHEME) else os.path.join(self.root, "-")
        for folder in self._folders(os.path.dirname(start)):
            package = os.path.join(folder, "node_modules", name)
            if os.path.isdir(package):
                return SCHEME + os.path.relpath(self._entry(package, name, subpath), self.root).replace(os.sep, "/")
        return None

    def load(self, url: str, kind: str) -> str | bytes:
        """The source of a module, or what its file contains if it is imported as data. :raises BundleError:"""
        file = self._file_of(url)
        if kind == "":
            return self.bundle(file, None, is_alone=True)
        if os.path.realpath(file) != file or not os.path.isfile(file):
            raise BundleError(f"{file} was a file of its package, and is none any more")
        with open(file, "rb") as source:
            return source.read()

    def bundle(
        self, entry: str, source: str | None, *, is_alone: bool, is_script: bool = False, is_minified: bool = False
    ) -> str:
        """:raises BundleError:"""
        request = {
            "root": self.root,
            "entry": entry,
            "source": source,
            "isAlone": is_alone,
            "isScript": is_script,
            "isMinified": is_minified,
        }
        key = hashlib.sha256(json.dumps([_contract.EDITION, request]).encode(errors="surrogatepass")).hexdigest()
        code = _kept(key, self.root)
        if code is None:
            made = self._make(request)
            code = with_map(made["code"], made["map"], self.root)
            _keep(key, self.root, made["files"], code)
        return code

    def _make(self, request: dict[str, Any]) -> dict[str, Any]:
        from ._config import RuntimeConfig
        from ._runtime import Runtime

        with Runtime(RuntimeConfig(confine=self._confine, allow_read=(self.root,))) as runtime:
            made = runtime._ask("eval", [_contract.TO_ENGINE_BUNDLE, 0, request], _TIMEOUT_SECONDS, None)
        if type(made) is not dict or any(type(made.get(key)) is not str for key in ("code", "map")):
            what = request["entry"] if request["source"] is None else "the source"
            why = made.get("error") if type(made) is dict else None
            raise BundleError(f"{what} cannot be bundled: {why or 'its answer makes no sense'}")
        files = made.get("files")
        made["files"] = [one for one in files if type(one) is str] if type(files) is list else []
        return made

    def _file_of(self, url: str) -> str:
        """:raises BundleError: if it lies outside of the folder"""
        path = os.path.normpath(os.path.join(self.root, url.removeprefix(SCHEME)))
        if not path.startswith(os.path.join(self.root, "")):
            raise BundleError(f"{url!r} lies outside of {self.root}")
        return path

    def _folders(self, folder: str) -> Iterator[str]:
        """Where a package may be, from the nearest on."""
        while True:
            if os.path.basename(folder) != "node_modules":
                yield folder
            if folder == self.root or not folder.startswith(self.root):
                return
            folder = os.path.dirname(folder)

    def _entry(self, package: str, name: str, subpath: str) -> str:
        manifest = _manifest(package)
        exports = manifest.get("exports")
        if exports is not None:
            wanted = _exported(exports, f".{subpath}", name)
            found = self._below(package, wanted, ("",))
        elif subpath:
            found = self._below(package, f".{subpath}", _ENDINGS)
        else:
            named = (manifest.get(key) for key in ("module", "browser", "main"))
            mains = [one for one in named if isinstance(one, str) and one] + ["./index.js"]
            found = next((file for one in mains if (file := self._below(package, one, _ENDINGS)) is not None), None)
        if found is None:
            raise BundleError(f"package {name!r} has no file {f'.{subpath}' if subpath else 'to begin with'}")
        return found

    def _below(self, package: str, path: str, endings: tuple[str, ...]) -> str | None:
        for ending in endings:
            file = os.path.realpath(os.path.normpath(os.path.join(package, path)) + ending)
            if os.path.isfile(file):
                if not file.startswith(os.path.join(self.root, "")):
                    raise BundleError(f"{os.path.join(package, path)} is a link to outside of {self.root}")
                return file
        return None


def _split(specifier: str) -> tuple[str | None, str]:
    if len(specifier) > _SPECIFIER_CHARS or "\0" in specifier:
        return None, ""
    parts = specifier.split("/")
    count = 2 if specifier.startswith("@") else 1
    name, rest = "/".join(parts[:count]), parts[count:]
    if not _NAME.match(name) or any(part in ("", ".", "..", "node_modules") for part in rest):
        return None, ""
    return name, "".join(f"/{part}" for part in rest)


def _manifest(package: str) -> dict[str, Any]:
    try:
        with open(os.path.join(package, "package.json"), encoding="utf-8") as file:
            manifest = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{package}/package.json cannot be read: {error}") from error
    return manifest if isinstance(manifest, dict) else {}


def _exported(exports: Any, wanted: str, name: str) -> str:
    """What ``exports`` of a package.json says of a path. :raises BundleError: it says that it is not exported"""
    if not isinstance(exports, dict) or not any(key.startswith(".") for key in exports):
        exports = {".": exports}
    target, star = exports.get(wanted), ""
    if target is None:
        patterns = [key for key in exports if key.count("*") == 1]
        for key in sorted(patterns, key=lambda one: one.index("*"), reverse=True):
            head, tail = key.split("*")
            if wanted.startswith(head) and wanted.endswith(tail) and len(wanted) >= len(key):
                target, star = exports[key], wanted[len(head) : len(wanted) - len(tail)]
                break
    found = _chosen(target)
    if found is None or not found.startswith("./"):
        raise BundleError(f"package {name!r} does not export {wanted!r}")
    return found.replace("*", star)


def _chosen(target: Any, depth: int = 0) -> str | None:
    if isinstance(target, str) or depth > _contract.VALUE_DEPTH_MAX:
        return target if isinstance(target, str) else None
    if isinstance(target, list):
        return next((found for one in target if (found := _chosen(one, depth + 1)) is not None), None)
    if isinstance(target, dict):
        for key, one in target.items():
            if key in _CONDITIONS and (found := _chosen(one, depth + 1)) is not None:
                return found
    return None


# ---- what was made ----

_memory: dict[str, tuple[list[list[Any]], str]] = {}
_lock = threading.Lock()


def _kept(key: str, root: str) -> str | None:
    """What was made before, if all that it was made of is the same."""
    record = _memory.get(key)
    if record is None:
        try:
            with open(os.path.join(_folder(), f"{key}.json"), encoding="utf-8") as file:
                record = _record(json.load(file))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
    files, code = record
    for path, digest in files:
        if _digest(os.path.join(root, path)) != digest:
            _memory.pop(key, None)
            return None
    _remember(key, record)
    return code


def _record(form: Any) -> tuple[list[list[Any]], str]:
    files, code = form
    if not isinstance(code, str) or not all(isinstance(one, str) for pair in files for one in pair):
        raise ValueError("a record of another version")
    return [[path, digest] for path, digest in files], code


def _remember(key: str, record: tuple[list[list[Any]], str]) -> None:
    with _lock:
        _memory[key] = record
        while len(_memory) > _KEPT_MAX:
            del _memory[next(iter(_memory))]


def _keep(key: str, root: str, files: list[str], code: str) -> None:
    """With the files and their contents as they are now. What changed meanwhile is made anew the next time."""
    digests = [[path, _digest(os.path.join(root, path))] for path in files]
    if any(digest is None for _, digest in digests):
        return
    _remember(key, (digests, code))
    folder = _folder()
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump([digests, code], file)
        os.replace(file.name, os.path.join(folder, f"{key}.json"))
        _sweep(folder)
    except (OSError, ValueError):
        pass  # without room it is made anew by each program


def _sweep(folder: str) -> None:
    kept = sorted((one for one in os.scandir(folder)), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in kept[_KEPT_MAX:]:
        os.unlink(old.path)


def _folder() -> str:
    return os.path.join(cache_folder(), "bundles")


def _digest(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def bundle(
    source: str,
    modules: str | os.PathLike[str] | None = None,
    *,
    language: Literal["js", "ts", "jsx", "tsx"] = "ts",
    format: Literal["module", "script"] = "module",
    minify: bool = False,
    confine: bool | Literal["auto"] = "auto",
) -> str:
    """A source and all packages that it imports as one module, or one script, with a source map.

    :param source: a module; plain JavaScript is TypeScript too
    :param modules: the folder whose ``node_modules`` has the packages
    :param format: what :meth:`Runtime.add_static_module` takes, or :meth:`Runtime.eval`
    :param confine: as for a runtime: the process that reads the packages
    :raises BundleError: if it imports what is not there, or is malformed
    """
    if not isinstance(source, str):
        raise TypeError(f"source must be str, not {type(source).__name__}")
    with contextlib.ExitStack() as stack:
        if modules is None:
            modules = stack.enter_context(tempfile.TemporaryDirectory(prefix="ipcctl-bundle-"))
            os.mkdir(os.path.join(modules, "node_modules"))
        packages = Packages(modules, confine)
        entry = os.path.join(packages.root, f"source.{language}")
        return packages.bundle(entry, source, is_alone=False, is_script=format == "script", is_minified=minify)
