"""TypeScript types of what a script exposes, read from its source without running it: ``ipcctl types worker.py >
worker.d.ts``.
"""

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
#: Types with one direction only: Python gets the string, number or array itself.
_SENT = {
    "Decimal": "string",
    "timedelta": "number",
    "time": "string",
    "Path": "string",
    "IPv4Address": "string",
    "IPv6Address": "string",
    "range": "number[]",
    "deque": "unknown[]",
}
_LISTS = {"list", "List", "Sequence", "Collection", "tuple", "Tuple"}
_SENT_LISTS = {"deque", "Deque", "KeysView", "ValuesView"}
_SETS = {"set", "Set", "frozenset", "FrozenSet"}
_DICTS = {"dict", "Dict", "Mapping", "MutableMapping"}
_STREAMS = {"Iterator", "Generator", "AsyncIterator", "AsyncGenerator", "Iterable", "AsyncIterable"}
#: Names with another meaning in the declarations themselves.
_TAKEN = {
    "Worker",
    "Record",
    "Map",
    "Set",
    "Date",
    "Uint8Array",
    "AsyncIterable",
    "AsyncIterableIterator",
    "NdArray",
    "TypedArray",
}
#: Words that cannot be names of parameters there.
_RESERVED = set(
    "arguments await break case catch class const continue debugger default delete do else enum eval export extends false finally for function if implements "
    "import in instanceof interface let new null package private protected public return static super switch this throw true try typeof var void while "
    "with yield".split()
)
#: The TypedDicts of the script, which become interfaces, by their names in Python.
_interfaces: dict[str, str] = {}


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
        quoted = _quoted(node)
        return "unknown" if quoted is None else type_of(quoted, is_argument=is_argument)
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
    if outer in ("Annotated", "Required", "NotRequired", "ReadOnly"):
        return type_of(inner[0], is_argument=is_argument)
    if outer == "Literal":
        return " | ".join(map(_literal, inner))
    if outer in ("tuple", "Tuple") and not (len(inner) == 2 and _is_ellipsis(inner[1])):
        return f"[{', '.join(type_of(one, is_argument=is_argument) for one in inner)}]"
    item = type_of(inner[0], is_argument=is_argument)
    if outer in _LISTS or (outer in _SENT_LISTS and not is_argument):
        return f"({item})[]" if " " in item else f"{item}[]"
    if outer in _SETS:
        return f"Set<{item}>"
    if outer in _DICTS and len(inner) == 2:
        value = type_of(inner[1], is_argument=is_argument)
        return f"Record<string, {value}>" if _is_text(inner[0]) else f"Map<{item}, {value}>"
    if outer in _STREAMS:
        return f"AsyncIterable<{item}>" if is_argument else f"AsyncIterableIterator<{item}>"
    if outer in ("Awaitable", "Coroutine"):
        return type_of(inner[-1], is_argument=is_argument)
    return "unknown"


def _quoted(node: ast.expr) -> ast.expr | None:
    """What an annotation in quotes says; None if it is text for something else."""
    try:
        return (
            ast.parse(node.value, mode="eval").body
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            else None
        )
    except (SyntaxError, ValueError):
        return None


def _literal(node: ast.expr) -> str:
    is_negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    one = node.operand if isinstance(node, ast.UnaryOp) else node
    if not isinstance(one, ast.Constant) or not isinstance(one.value, (str, int, type(None))):
        return "unknown"
    return ("-" if is_negative else "") + json.dumps(one.value)


def _is_text(node: ast.expr) -> bool:
    """Keys of type str make a plain object; other types that are strings in TypeScript do not."""
    node = _quoted(node) or node
    if isinstance(node, ast.Subscript) and _name(node.value) == "Literal":
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return all(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in parts)
    return _name(node) == "str"


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
    return _interfaces.get(name) or _SIMPLE.get(name) or (not is_argument and _SENT.get(name)) or "unknown"


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


def _parameter(argument: ast.arg) -> str:
    """Its name, which nobody uses, so that a reserved word is replaced."""
    return f"{argument.arg}_" if argument.arg in _RESERVED else argument.arg


def _signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    optional_from = len(positional) - len(arguments.defaults)
    parts = [
        f"{_parameter(one)}{'?' if index >= optional_from else ''}: {type_of(one.annotation, is_argument=True)}"
        for index, one in enumerate(positional)
    ]
    if arguments.vararg is not None:
        parts.append(f"...{_parameter(arguments.vararg)}: ({type_of(arguments.vararg.annotation, is_argument=True)})[]")
    text = f"({', '.join(parts)}) => {type_of(function.returns, is_argument=False)}"
    keywords = _keywords(arguments)
    return text if keywords is None else f"({text}) & {{ readonly kwargs{keywords} }}"


def _keywords(arguments: ast.arguments) -> str | None:
    """What ``callWith`` takes as ``kwargs``, for parameters that cannot be passed otherwise; else None."""
    if not arguments.kwonlyargs and arguments.kwarg is None:
        return None
    fields = [f"{one.arg}?: {type_of(one.annotation, is_argument=True)}" for one in arguments.args]
    is_optional = True
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        is_optional = is_optional and default is not None
        fields.append(f"{one.arg}{'' if default is None else '?'}: {type_of(one.annotation, is_argument=True)}")
    if arguments.kwarg is not None:
        fields.append("[name: string]: unknown")
    return f"{'?' if is_optional else ''}: {{ {'; '.join(fields)} }}"


def _bases(node: ast.ClassDef) -> list[str]:
    return [_name(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases]


def _typed_dicts(tree: ast.Module) -> list[ast.ClassDef]:
    """Those of the script, also if derived from another one of it."""
    found: list[ast.ClassDef] = []
    names = {"TypedDict"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and names.intersection(_bases(node)):
            found.append(node)
            names.add(node.name)
    return found


def _mark(node: ast.expr) -> str:
    """``Required`` or ``NotRequired``, within what else is said of a field; or nothing."""
    node = _quoted(node) or node
    while isinstance(node, ast.Subscript) and _name(node.value) in ("Annotated", "ReadOnly"):
        inner = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
        node = _quoted(inner) or inner
    return _name(node.value) if isinstance(node, ast.Subscript) else ""


def _interface(node: ast.ClassDef) -> list[str]:
    is_total = not any(
        one.arg == "total" and isinstance(one.value, ast.Constant) and one.value.value is False for one in node.keywords
    )
    above = [_interfaces[base] for base in _bases(node) if base in _interfaces]
    lines = [f"export interface {_interfaces[node.name]}{' extends ' + ', '.join(above) if above else ''} {{"]
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            mark = _mark(field.annotation)
            is_required = mark == "Required" or (is_total and mark != "NotRequired")
            lines.append(
                f"  {field.target.id}{'' if is_required else '?'}: {type_of(field.annotation, is_argument=False)};"
            )
    return [*lines, "}"]


def declarations(source: str, filename: str) -> str:
    """The text of a ``.d.ts``: an interface, ``Worker``, and one for each TypedDict. :raises SyntaxError:"""
    lines = [f"/** What {json.dumps(filename)} exposes; written by `ipcctl types`. */"]
    if "ndarray" in source:
        lines.append('import type { NdArray, TypedArray } from "ipcctl";')
    tree = ast.parse(source, filename)
    dicts = _typed_dicts(tree)
    _interfaces.clear()
    _interfaces.update((node.name, f"{node.name}_" if node.name in _TAKEN else node.name) for node in dicts)
    for node in dicts:
        lines += _interface(node)
    members: dict[str, list[str]] = {}  # of two functions with one name the last one counts, as in Python
    for function in ast.walk(tree):
        if (
            not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
            or (name := _exposed_name(function)) is None
        ):
            continue
        text = ast.get_docstring(function)
        said = [f"  /** {text.splitlines()[0].replace('*/', '*' + chr(92) + '/')} */"] if text else []
        members[name] = [*said, f"  {name}: {_signature(function)};"]
    lines.append("export interface Worker {")
    return "\n".join([*lines, *(line for member in members.values() for line in member), "}", ""])


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.stdout.write(declarations(file.read(), sys.argv[1]))
