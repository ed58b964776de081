"""JSON Schema of the arguments of a function, from its annotations."""

from __future__ import annotations

import collections.abc
import inspect
import json
import types
import typing
from collections.abc import Callable
from typing import Any

_SIMPLE: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    Any: {},
    object: {},
    list: {"type": "array"},
    dict: {"type": "object"},
}
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_WAY_OUT = "annotate it with a type that JSON has, or give a schema"


def schema_of(function: Callable[..., Any], apart: object) -> tuple[dict[str, Any], str | None]:
    """
    :param apart: the type of a parameter that is no argument of a caller
    :returns: the schema, and the name of that parameter if there is one
    :raises TypeError: for what JSON Schema cannot say
    """
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"{function.__qualname__}: an annotation cannot be read: {error}; {_WAY_OUT}") from None
    properties: dict[str, Any] = {}
    required: list[str] = []
    special = None
    for name, parameter in inspect.signature(function).parameters.items():
        place = f"{function.__qualname__}: {name}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{place}: is called by keyword, so it cannot be *args, **kwargs or positional only")
        hint = hints.get(name, parameter.empty)
        if hint is apart:
            special = name
            continue
        if hint is parameter.empty:
            raise TypeError(f"{place}: has no type: {_WAY_OUT}")
        schema = _of(hint, place)
        if parameter.default is parameter.empty:
            required.append(name)
        elif _is_json(parameter.default):
            schema = {**schema, "default": parameter.default}
        properties[name] = schema
    closed = {"type": "object", "properties": properties, "additionalProperties": False}
    return ({**closed, "required": required} if required else closed), special


def _of(hint: Any, place: str) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        said = " ".join(one for one in args[1:] if isinstance(one, str))
        inner = _of(args[0], place)
        return {**inner, "description": said} if said else inner
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(one, place) for one in args]}
    if origin is typing.Literal and all(_is_json(one) for one in args):
        return {"enum": list(args)}
    if typing.is_typeddict(hint):
        return _of_typed_dict(hint, place)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return {"type": "array", "items": _of(args[0], place)}
    if origin in _LISTS:
        return {"type": "array", "items": _of(args[0], place)}
    if origin in _DICTS and args[0] is str:
        return {"type": "object", "additionalProperties": _of(args[1], place)}
    try:
        return dict(_SIMPLE[hint])
    except (KeyError, TypeError):
        raise TypeError(f"{place}: {hint!r} has no form in JSON Schema: {_WAY_OUT}") from None


def _of_typed_dict(hint: Any, place: str) -> dict[str, Any]:
    properties = {}
    for name, field in typing.get_type_hints(hint, include_extras=True).items():
        while typing.get_origin(field) in (typing.Required, typing.NotRequired):
            (field,) = typing.get_args(field)
        properties[name] = _of(field, f"{place}.{name}")
    required = sorted(hint.__required_keys__)
    closed = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**closed, "required": required} if required else closed


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
