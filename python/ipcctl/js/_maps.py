"""Source maps: where in its own source something stands that went wrong in code that was made of it."""

from __future__ import annotations

import base64
import binascii
import json
import os
import posixpath
import re
from bisect import bisect_right
from typing import Any
from urllib.parse import unquote

from ._errors import JavaScriptError

_COMMENT = re.compile(r"\n?//[#@] sourceMappingURL=data:application/json[^,\s]{0,50},([^\s]*)\s*\Z")
_DIGITS = {char: at for at, char in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
#: Bits of a digit, and the one that says that another digit follows.
_BITS = 5
_MORE = 1 << _BITS
_PLACE = re.compile(r"(.*?)([^\s()]+):(\d+):(\d+)(\)?)\Z")
_OTHER_COMMENT = re.compile(r"\n//# (?:sourceMappingURL|debugId)=\S*\s*\Z")


class SourceMap:
    """What a JSON text says; one that says nothing sensible maps nothing."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: list[list[tuple[int, int, int, int]]] | None = None
        self._sources: list[str] = []

    def find(self, line: int, column: int) -> tuple[str, int, int] | None:
        """File, line and column, which count from 1."""
        if self._lines is None:
            try:
                self._read()
            except (ValueError, TypeError, KeyError, IndexError, RecursionError):
                self._lines = []
        lines = self._lines or []
        segments = lines[line - 1] if 0 < line <= len(lines) else []
        at = bisect_right(segments, column - 1, key=lambda one: one[0]) - 1
        if at < 0:
            return None
        _, source, found_line, found_column = segments[at]
        return (self._sources[source], found_line + 1, found_column + 1) if source < len(self._sources) else None

    def _read(self) -> None:
        form = json.loads(self._text)
        self._sources = [str(one) for one in form["sources"]]
        lines: list[list[tuple[int, int, int, int]]] = []
        source = line = column = 0
        for part in form["mappings"].split(";"):
            segments = []
            start = 0
            for text in part.split(","):
                if not text:
                    continue
                numbers = _decoded(text)
                start += numbers[0]
                if len(numbers) >= 4:
                    source, line, column = source + numbers[1], line + numbers[2], column + numbers[3]
                    if source < 0 or line < 0:
                        raise ValueError("a place before the first")
                    segments.append((start, source, line, column))
            segments.sort()
            lines.append(segments)
        self._lines = lines


def _decoded(text: str) -> list[int]:
    numbers = []
    value = shift = 0
    for char in text:
        digit = _DIGITS[char]
        value |= (digit & (_MORE - 1)) << shift
        shift += _BITS
        if not digit & _MORE:
            numbers.append(-(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    return numbers


class SourceMaps:
    """Of the modules of a runtime, by URL."""

    def __init__(self) -> None:
        self._maps: dict[str, SourceMap] = {}

    def take(self, url: str, source: str) -> str:
        """Keeps the map that a source brings, and gives the source without it."""
        self._maps.pop(url, None)
        start = source.rfind("\n//")
        found = _COMMENT.match(source, start) if start >= 0 else None
        if found is None:
            return source
        try:
            text = found.group(1)
            is_base64 = ";base64," in source[start : start + 200]
            self._maps[url] = SourceMap(base64.b64decode(text).decode() if is_base64 else unquote(text))
        except (binascii.Error, ValueError):
            return source
        return source[:start]

    def locate(self, error: JavaScriptError, depth: int = 0) -> None:
        """Puts places of the sources into its frames and its stack, and into those of its causes."""
        if not self._maps or depth > _CAUSES_MAX:
            return
        for frame in error.frames:
            source_map = self._maps.get(frame.get("file_name", ""))
            found = source_map and source_map.find(frame.get("line_number", 0), frame.get("column_number", 0))
            if found:
                frame["file_name"], frame["line_number"], frame["column_number"] = found
        if error.stack is not None:
            error.stack = "\n".join(map(self._line, error.stack.split("\n")))
        for one in (error.__cause__, *error.errors):
            if isinstance(one, JavaScriptError):
                self.locate(one, depth + 1)

    def _line(self, line: str) -> str:
        match = _PLACE.match(line)
        if match is None:
            return line
        before, url, row, column, after = match.groups()
        source_map = self._maps.get(url)
        found = source_map and source_map.find(int(row), int(column))
        return "{}{}:{}:{}{}".format(before, *found, after) if found else line


_CAUSES_MAX = 50


def with_map(code: str, text: str, root: str) -> str:
    """Code with its map as a comment, whose sources are named from the folder on."""
    code = _OTHER_COMMENT.sub("", _OTHER_COMMENT.sub("", code))
    try:
        form: Any = json.loads(text)
        form["sources"] = [_named(str(one), root) for one in form["sources"]]
        form.pop("sourcesContent", None)
        form.pop("debugId", None)
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        return code
    encoded = base64.b64encode(json.dumps(form, separators=(",", ":")).encode()).decode()
    return f"{code}\n//# sourceMappingURL=data:application/json;base64,{encoded}\n"


def _named(source: str, root: str) -> str:
    """Relative to the working folder of an engine, which is the root of its file system."""
    path = posixpath.normpath(posixpath.join("/", source))
    return os.path.relpath(path, root) if path.startswith(os.path.join(root, "")) else path
