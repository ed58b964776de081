"""TypeScript types of what a script exposes, read from its source without running it: ``ipcctl types worker.py > worker.d.ts``."""

from __future__ import annotations

import ast
import json
import sys

_SIMPLE = {
    "int": "number",
    "float": "number",
    "str": "string",
    "bool": "boolean",
    "bytes": "Uint8Array",
    "bytearray": "Uint8Array",
    "None": "null",
    "object": "unknown",
    "Any": "unknown",
    "datetime": "Date",
    "date": "string",
    "UUID": "string",
    "ndarray": "NdArray | TypedArray",
}
_LISTS = {"list", "List", "Sequence", "Collection", "tuple", "Tuple"}
_SETS = {"set", "Set", "frozenset", "FrozenSet"}
_DICTS = {"dict", "Dict", "Mapping", "MutableMapping"}
_STREAMS = {"Iterator", "Generator", "AsyncIterator", "AsyncGenerator", "Iterable", "AsyncIterable"}


def _name(node: ast.expr) -> str:
    """The last part of a dotted name, or nothing."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def type_of(node: ast.expr | None, *, is_argument: bool) -> str:
    """An annotation in TypeScript; ``unknown`` for what has no counterpart."""
    if node is None:
        return "unknown"
    if isinstance(node, ast.Constant):
        if node.value is None:
            return "null"
        if isinstance(node.value, str):
            return type_of(ast.parse(node.value, mode="eval").body, is_argument=is_argument)
        return "unknown"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([node.left, node.right], is_argument)
    if not isinstance(node, ast.Subscript):
        return _bare(_name(node), is_argument)
    outer = _name(node.value)
    inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if outer == "Optional":
        return _union([inner[0], ast.Constant(None)], is_argument)
    if outer == "Union":
        return _union(inner, is_argument)
    if outer == "Annotated":
        return type_of(inner[0], is_argument=is_argument)
    if outer == "Literal":
        return " | ".join(json.dumps(one.value) if isinstance(one, ast.Constant) else "unknown" for one in inner)
    if outer in ("tuple", "Tuple") and not (len(inner) == 2 and _is_ellipsis(inner[1])):
        return f"[{', '.join(type_of(one, is_argument=is_argument) for one in inner)}]"
    item = type_of(inner[0], is_argument=is_argument)
    if outer in _LISTS:
        return f"({item})[]" if " " in item else f"{item}[]"
    if outer in _SETS:
        return f"Set<{item}>"
    if outer in _DICTS and len(inner) == 2:
        value = type_of(inner[1], is_argument=is_argument)
        return f"Record<string, {value}>" if item == "string" else f"Map<{item}, {value}>"
    if outer in _STREAMS:
        return f"AsyncIterable<{item}>" if is_argument else f"AsyncIterableIterator<{item}>"
    if outer in ("Awaitable", "Coroutine"):
        return type_of(inner[-1], is_argument=is_argument)
    return "unknown"


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _bare(name: str, is_argument: bool) -> str:
    if name == "int" and is_argument:
        return "number | bigint"
    if name in _LISTS:
        return "unknown[]"
    if name in _SETS:
        return "Set<unknown>"
    if name in _DICTS:
        return "Record<string, unknown>"
    if name in _STREAMS:
        return "AsyncIterable<unknown>" if is_argument else "AsyncIterableIterator<unknown>"
    return _SIMPLE.get(name, "unknown")


def _union(nodes: list[ast.expr], is_argument: bool) -> str:
    parts = [part for node in nodes for part in type_of(node, is_argument=is_argument).split(" | ")]
    return " | ".join(dict.fromkeys(parts))


def _exposed_name(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    for decorator in function.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if _name(call) != "expose":
            continue
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else []:
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
        return function.name
    return None


def _signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    optional_from = len(positional) - len(arguments.defaults)
    parts = [
        f"{one.arg}{'?' if index >= optional_from else ''}: {type_of(one.annotation, is_argument=True)}"
        for index, one in enumerate(positional)
    ]
    if arguments.vararg is not None:
        parts.append(f"...{arguments.vararg.arg}: ({type_of(arguments.vararg.annotation, is_argument=True)})[]")
    return f"({', '.join(parts)}) => {type_of(function.returns, is_argument=False)}"


def declarations(source: str, filename: str) -> str:
    """The text of a ``.d.ts`` with one interface, ``Worker``. :raises SyntaxError:"""
    lines = [f"/** What {json.dumps(filename)} exposes; written by `ipcctl types`. */"]
    if "ndarray" in source:
        lines.append('import type { NdArray, TypedArray } from "ipcctl";')
    lines.append("export interface Worker {")
    for node in ast.walk(ast.parse(source, filename)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (name := _exposed_name(node)) is None:
            continue
        text = ast.get_docstring(node)
        if text is not None:
            first = text.splitlines()[0].replace("*/", "*\\/")
            lines.append(f"  /** {first} */")
        lines.append(f"  {name}: {_signature(node)};")
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.stdout.write(declarations(file.read(), sys.argv[1]))
