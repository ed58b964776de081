"""Takes the credentials of a plugin out of what leaves it, as ``src/host/redact.ts`` does, which says what is found.

Both have to pass ``test/vectors/redact.json``. What only looks like a secret, the router takes out.
"""

from __future__ import annotations

import base64
import bisect
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

REDACTED = "[redacted]"

#: Encodings on top of each other that are undone.
_LAYERS = 2
#: Halves of a credential that have fewer characters say nothing.
_HALF_CHARS = 4
#: Lines of a key file that have fewer say nothing either.
_LINE_CHARS = 16
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")

#: Characters, and how many of the encoded ones they stand for.
_Piece = tuple[str, int]


class _Decoder(NamedTuple):
    mark: re.Pattern[str]
    pattern: re.Pattern[str]
    decode: Callable[[str], list[_Piece]]


class _View(NamedTuple):
    """A text as those read it who undo an encoding."""

    text: str
    #: For each character and the end, where it begins in what is viewed; None if it is that itself.
    starts: list[int] | None


class _Range(NamedTuple):
    start: int
    end: int


class _Match(NamedTuple):
    """Its edges, from ``before`` to ``after``, hold a few bits of it: they go too, where they are in the same field."""

    start: int
    end: int
    before: int
    after: int


class _Leaf(NamedTuple):
    text: str
    kind: str


# ---- encodings that are undone ----


def _from_code(code: int) -> str:
    return chr(code) if code <= 0x10FFFF else ""


def _from_bytes(digits: str, width: int) -> list[_Piece]:
    """Bytes of UTF-8, each character by itself; what is none is one of latin-1. ``width``: characters for each byte."""
    data = bytes.fromhex(digits)
    pieces: list[_Piece] = []
    at = 0
    while at < len(data):
        length = 1 + sum(data[at] >= lead for lead in (0xC0, 0xE0, 0xF0))
        try:
            text = data[at : at + length].decode()
            taken = len(data[at : at + length])
        except UnicodeDecodeError:
            text, taken = chr(data[at]), 1
        pieces.append((text, taken * width))
        at += taken
    return pieces


def _from_units(units: list[str]) -> str:
    """Digits of units of UTF-16: one, or the two halves of a character."""
    return b"".join(int(unit, 16).to_bytes(2, "little") for unit in units).decode("utf-16-le", "surrogatepass")


def _percent(match: str) -> list[_Piece]:
    if match[1] == "u":
        return [(_from_units(match.split("%u")[1:]), len(match))]
    return _from_bytes(match.replace("%", ""), 3)


_LITERALS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "0": "\0"}


def _backslash(match: str) -> list[_Piece]:
    kind = match[1]
    if kind == "x":
        return _from_bytes(match.replace("\\x", ""), 4)
    if kind == "U" or match.startswith("\\u{"):
        return [(_from_code(int(match[2:].strip("{}"), 16)), len(match))]
    if kind == "u":
        return [(_from_units(match.split("\\u")[1:]), len(match))]
    return [(_LITERALS.get(kind, kind), len(match))]


_NAMED = """
amp & lt < gt > quot " apos ' excl ! num # dollar $ percnt % lpar ( rpar ) ast * plus + comma , period . sol /
colon : semi ; equals = quest ? commat @ lsqb [ lbrack [ bsol \\ rsqb ] rbrack ] Hat ^ lowbar _ grave `
lcub { lbrace { verbar | vert | rcub } rbrace } hyphen - dash - tilde ~
""".split()
_NAMES = {"nbsp": "\u00a0", "Tab": "\t", "NewLine": "\n", **dict(zip(_NAMED[::2], _NAMED[1::2], strict=True))}


def _entity(match: str) -> list[_Piece]:
    body = match.strip("&;")
    if body[:2] in ("#x", "#X"):
        return [(_from_code(int(body[2:], 16)), len(match))]
    if body.startswith("#"):
        return [(_from_code(int(body[1:])), len(match))]
    return [(_NAMES.get(body, match), len(match))]


_HALVES = r"[dD][89abAB][0-9a-fA-F]{2}%s[dD][c-fC-F][0-9a-fA-F]{2}"
_WRAPPED = _Decoder(re.compile(r"[\r\n]"), re.compile(r"[\r\n]+[ \t]*"), lambda match: [("", len(match))])
_DECODERS = (
    _Decoder(
        re.compile(r"%[0-9a-fA-Fu]"),
        re.compile(rf"(?:%[0-9a-fA-F]{{2}})+|%u{_HALVES % '%u'}|%u[0-9a-fA-F]{{4}}"),
        _percent,
    ),
    _Decoder(
        re.compile(r"\\"),
        re.compile(
            r"\\u\{[0-9a-fA-F]{1,6}\}"
            rf"|\\u{_HALVES % (chr(92) * 2 + 'u')}"
            r"|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|(?:\\x[0-9a-fA-F]{2})+|\\[^uUx]"
        ),
        _backslash,
    ),
    _Decoder(
        re.compile(r"&[#a-zA-Z]"), re.compile(r"&#[0-9]{1,7};?|&#[xX][0-9a-fA-F]{1,6};?|&[a-zA-Z]{2,8};"), _entity
    ),
)


def _views(view: _View, layers: int = _LAYERS) -> Iterator[_View]:
    yield view
    unwrapped = _undo(_WRAPPED, view)
    if unwrapped is not None:
        yield unwrapped
    if layers == 0:
        return
    for decoder in _DECODERS:
        below = _undo(decoder, view)
        if below is not None:
            yield from _views(below, layers - 1)


def _undo(decoder: _Decoder, view: _View) -> _View | None:
    """None where it changes nothing."""
    text, below = view
    if decoder.mark.search(text) is None:
        return None
    places = range(len(text) + 1) if below is None else below
    out: list[str] = []
    starts: list[int] = []
    copied = 0
    for match in decoder.pattern.finditer(text):
        said = decoder.decode(match[0])
        if said == [(match[0], len(match[0]))]:
            continue
        out.append(text[copied : match.start()])
        starts.extend(places[copied : match.start()])
        at = match.start()
        for piece, length in said:
            out.append(piece)
            starts.extend([places[at]] * len(piece))
            at += length
        copied = match.end()
    if copied == 0:
        return None
    return _View("".join(out) + text[copied:], [*starts, *places[copied:]])


# ---- what credentials look like ----


def _forms_of(credential: str) -> Iterator[tuple[str, bool]]:
    """Each with whether it is base64, whose first and last characters hold a few bits of it as well."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", credential)]
    if len(lines) < 2:
        lines = []
    long = [line for line in lines if len(line) >= _LINE_CHARS and not line.startswith("-----")]
    for value in dict.fromkeys([credential, credential.strip(), *long]):
        if value == "":
            continue
        yield value, False
        yield value.replace(" ", "+"), False
        yield value[::-1], False
        if re.fullmatch(r"[0-9]+", value):
            yield str(int(value)), False
        quoted = urllib.parse.quote(value, safe="-_.!~*'()", errors="replace")
        for spelling in dict.fromkeys([value, json.dumps(value, ensure_ascii=False)[1:-1], quoted]):
            data = spelling.encode(errors="replace")
            yield data.hex(), False
            yield data.hex().upper(), False
            for before in range(3):
                text = base64.b64encode(bytes(before) + data).decode()
                # The characters that do not depend on what stands before and after.
                text = text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
                yield text, True
                yield text.replace("+", "-").replace("/", "_"), True


class Redactor:
    """Without credentials it changes nothing."""

    def __init__(self, credentials: list[str]) -> None:
        forms: dict[str, bool] = {}
        for credential in credentials:
            for text, is_encoded in _forms_of(credential):
                forms.setdefault(text, is_encoded)
        self._forms = forms
        texts = sorted(forms, key=len, reverse=True)  # the longest one wins
        self._pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        self._beginnings = re.compile(
            "|".join(map(re.escape, dict.fromkeys(text[:_HALF_CHARS] for text in texts))) or r"(?!)"
        )
        self._shortest = min(map(len, texts), default=0)
        self._longest = max(map(len, texts), default=0)

    def value(self, value: Any) -> Any:
        """What :func:`json.loads` makes; the same if there is nothing to take out."""
        if not self._forms:
            return value
        leaves = list(_leaves(value))
        if sum(len(leaf.text) for leaf in leaves) < self._shortest:
            return value
        ranges: list[list[_Range]] = [[] for _ in leaves]
        lanes = _lanes(leaves)
        for lane in lanes:
            for found in self._find(lane.text):
                lane.add(ranges, found)
        if lanes:
            self._add_halves(leaves, lanes[0], ranges)
        if not any(ranges):
            return value
        return _rebuilt(value, iter(ranges))

    def json(self, text: str) -> str:
        if not self._forms:
            return text
        before = json.loads(text)
        after = self.value(before)
        return text if after is before else json.dumps(after, ensure_ascii=False)

    def text(self, text: str) -> str:
        return str(self.value(text))

    def _find(self, text: str) -> Iterator[_Match]:
        for seen, starts in _views(_View(text, None)):
            for match in _overlapping(self._pattern, seen):
                edges = _with_edges(seen, *match.span()) if self._forms[match[0]] else match.span()
                places = (*match.span(), *edges)
                yield _Match(*(places if starts is None else (starts[at] for at in places)))

    def _add_halves(self, leaves: list[_Leaf], every: _Lane, ranges: list[list[_Range]]) -> None:
        """Of a text that was cut in two, whatever stands between its halves."""
        for match in _overlapping(self._beginnings, every.text):
            at = match.start()
            first = every.index_at(at)
            end = every.offsets[first] + len(leaves[first].text)
            length = end - at
            if not _HALF_CHARS <= length <= self._longest - _HALF_CHARS:
                continue
            begun = every.text[at:end]
            for form in self._forms:
                if len(form) < length + _HALF_CHARS or not form.startswith(begun):
                    continue
                rest = form[length:]
                seconds = [index for index, leaf in enumerate(leaves) if leaf.text.startswith(rest)]
                for index in seconds:
                    ranges[index].append(_Range(0, len(rest)))
                if seconds:
                    ranges[first].append(_Range(at - every.offsets[first], len(leaves[first].text)))


def _overlapping(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    match = pattern.search(text)
    while match is not None:
        yield match
        match = pattern.search(text, match.start() + 1)


def _with_edges(text: str, start: int, end: int) -> tuple[int, int]:
    """With the characters on both sides that hold some of its bits, and what fills up the end."""
    if start > 0 and text[start - 1] in _BASE64:
        start -= 1
    if end < len(text) and text[end] in _BASE64:
        end += 1
    while end < len(text) and text[end] == "=":
        end += 1
    return start, end


# ---- values ----


class _Lane:
    """Leaves one after the other, as one text."""

    def __init__(self, leaves: list[_Leaf], members: list[int]) -> None:
        self.members = members
        self.offsets: list[int] = []
        self._leaves = leaves
        length = 0
        for member in members:
            self.offsets.append(length)
            length += len(leaves[member].text)
        self.text = "".join(leaves[member].text for member in members)

    def index_at(self, at: int) -> int:
        return bisect.bisect_right(self.offsets, at) - 1

    def add(self, ranges: list[list[_Range]], found: _Match) -> None:
        """To each leaf its part."""
        index = self.index_at(found.start)
        while index < len(self.members) and self.offsets[index] < found.end:
            leaf, offset = self.members[index], self.offsets[index]
            part = _Range(max(0, found.before - offset), min(len(self._leaves[leaf].text), found.after - offset))
            if part.start < part.end:
                ranges[leaf].append(part)
            index += 1


def _lanes(leaves: list[_Leaf]) -> list[_Lane]:
    """By which a split text is put together; each that has no other's members."""
    lanes: list[list[int]] = []
    for kinds in (("key", "string", "number"), ("string", "number"), ("key", "string"), ("string",), ("key",)):
        members = [index for index, leaf in enumerate(leaves) if leaf.kind in kinds]
        if members and members not in lanes:
            lanes.append(members)
    return [_Lane(leaves, members) for members in lanes]


def _leaves(value: Any) -> Iterator[_Leaf]:
    if isinstance(value, str):
        yield _Leaf(value, "string")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield _Leaf(str(value), "number")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield _Leaf(key, "key")
            yield from _leaves(item)


def _rebuilt(value: Any, ranges: Iterator[list[_Range]]) -> Any:
    """``ranges``: of each leaf, in their order"""
    if isinstance(value, list):
        return [_rebuilt(item, ranges) for item in value]
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        alike: dict[str, int] = {}
        for key, item in value.items():
            some = next(ranges)
            name = key if not some else _name_among(value, _without(key, some), alike)
            out[name] = _rebuilt(item, ranges)
        return out
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    some = next(ranges)
    if not some:
        return value
    return _without(value, some) if isinstance(value, str) else REDACTED


def _name_among(value: dict[str, Any], redacted: str, alike: dict[str, int]) -> str:
    """Names that differed in what was taken out of them still differ."""
    while True:
        number = alike[redacted] = alike.get(redacted, 0) + 1
        name = redacted if number == 1 else f"{redacted} {number}"
        if name not in value:
            return name


def _without(text: str, ranges: list[_Range]) -> str:
    out = ""
    end = 0
    for one in sorted(ranges):
        if one.start > end or (end == 0 and out == ""):
            out += text[end : one.start] + REDACTED
        end = max(end, one.end)
    return out + text[end:]
