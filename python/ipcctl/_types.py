"""What both codecs share: the classes of values and errors, and the rare forms of docs/internals/encoding.md.

The C extension and `_pure` each handle the common types themselves and call this for the rest (dates, UUIDs, typed
arrays, exceptions, subclasses), so these cannot differ between the two.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import struct
import sys
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, Sequence, ValuesView

from ._contract import MESSAGE_BYTES_MAX

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any, NoReturn

_MAX_DIMENSIONS = 32


class Undefined:
    """The type of `undefined`, JavaScript's other `null`."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "undefined"

    def __reduce__(self) -> str:
        return "undefined"  # copies and pickles stay the one object

    def __new__(cls) -> Undefined:
        return undefined


undefined: Undefined = object.__new__(Undefined)


class _CodecError(ValueError):
    """`code` is the kind of error, `path` the place in the value."""

    def __init__(self, code: str, path: str, detail: str) -> None:
        super().__init__(code, path, detail)
        self.code = code
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


class EncodeError(_CodecError):
    """A value cannot be encoded: `code` is CYCLE, DEPTH, SIZE or TYPE."""


class DecodeError(_CodecError):
    """Bytes are not a value: `code` is MALFORMED, DEPTH or SIZE."""


class BrokenChannel(ConnectionError):
    """The other side violated the protocol, or is gone; the channel stays broken."""


class IpcError(Exception):
    """An error of the daemon, or why it, or a worker, cannot be reached."""

    def __init__(self, code: str, message: str, hint: str | None = None, output: Iterable[str] = ()) -> None:
        super().__init__(message)
        #: One of the codes of the command line, such as ``"NOT_FOUND"``.
        self.code = code
        #: The next thing to try, usually a command.
        self.hint = hint
        #: The last lines of the process that failed.
        self.output = tuple(output)


class RemoteError(Exception):
    """An error that a worker's function raised, or any other on the other side of a call, with its `type` (its name
    there) and `stack` (the traceback there).
    """

    def __init__(self, message: str = "", type: str = "Error", stack: str | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.stack = stack
        self.cause: Any = None  # also what is no exception; __cause__ is set where it is one
        #: Those of an AggregateError, or of an ExceptionGroup that has been there.
        self.exceptions: tuple[RemoteError, ...] = ()
        #: Of an IpcError there, such as ``"NOT_FOUND"``, or of a value that could not be encoded.
        self.code: str | None = None


class JavaScriptError(RemoteError):
    """An error that came from a client in TypeScript. What Python raised there before has the type and the traceback
    that it had in Python.
    """


class Interrupted(KeyboardInterrupt):
    """What a client's interrupt raises in the code that runs for it. To that code it is a KeyboardInterrupt."""

    #: Called when one is created: an exception that is sent to another thread is created when it is raised there.
    on_raise: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or ("interrupted by the client",)))
        Interrupted.on_raise()

    def __reduce__(self) -> tuple[type[KeyboardInterrupt], tuple[object, ...]]:
        return KeyboardInterrupt, self.args


Interrupted.__name__ = Interrupted.__qualname__ = "KeyboardInterrupt"
Interrupted.__module__ = "builtins"


class Refused(Exception):
    """Inside the codecs: becomes TYPE or MALFORMED once the place is known."""


class Unheld(Exception):
    """Well-formed, but this process has no memory for it: that costs only what it belongs to."""


#: Set by `_shared` once there is shared memory: for a view or array, what finds it in a segment, or None; and the
#: reverse.
share: Any = None
borrow: Any = None
#: Set by `_shared`: an Arrow table as tag and form; and the reverse.
lower_arrow: Any = None
revive_arrow: Any = None
#: Makes what stands for something in a JavaScript runtime.
revive_reference: Any = None
#: Copies bytes that a JavaScript runtime has written into shared memory.
revive_bytes: Any = None


class Tagged:
    """A lowered value that stands inside another."""

    __slots__ = ("tag", "value")

    def __init__(self, tag: int, value: Any) -> None:
        self.tag = tag
        self.value = value


# --- the place in a value ---

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*\Z")


def _step(part: Any) -> str:
    """Text of one step. A tuple holds the key of a map, a plain int an index."""
    if type(part) is int:
        return f"[{part}]"
    key = part[0]
    if isinstance(key, str):
        key = str.__str__(key)
        if len(key) <= 64 and _NAME.match(key):
            return "." + key
        return f"[{json.dumps(key[:64])}]"
    # No repr of anything that could be huge or run foreign code.
    if key is None or type(key) in (bool, float) or (type(key) is int and key.bit_length() <= 64):
        return f"[{key!r}]"
    return f"[<{type(key).__name__}>]"


def failure(kind: type[_CodecError], code: str, parts: list[Any], detail: str) -> _CodecError:
    """The error for a place whose steps were noted from the inside out."""
    return kind(code, "$" + "".join(_step(part) for part in reversed(parts)), detail)


# --- encoding ---

_UNSIGNED = {1: 64, 2: 69, 4: 70, 8: 71}
_SIGNED = {1: 72, 2: 77, 4: 78, 8: 79}
_FLOAT = {2: 84, 4: 85, 8: 86}
_KINDS = {"u": _UNSIGNED, "i": _SIGNED, "f": _FLOAT}
_FORMATS = dict.fromkeys("BHILQNc", _UNSIGNED) | dict.fromkeys("bhilqn", _SIGNED) | dict.fromkeys("efd", _FLOAT)
_FORMAT_OF_TAG = {
    68: "B",
    64: "B",
    69: "H",
    70: "I",
    71: "Q",
    72: "b",
    77: "h",
    78: "i",
    79: "q",
    84: "e",
    85: "f",
    86: "d",
}
_ITEM_SIZE = {tag: struct.calcsize("=" + code) for tag, code in _FORMAT_OF_TAG.items()}
_PLAIN = (type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset)
#: What to send instead, by the name of a type or of a base type.
_WAYS_OUT = {
    "Fraction": "str() or float() of it",
    "complex": "[z.real, z.imag]",
    "SimpleNamespace": "vars() of it",
    "pandas.DataFrame": "its to_dict('list'), or pyarrow.Table.from_pandas() of it",
    "polars.DataFrame": "its to_arrow(), or its to_dict(as_series=False)",
    "polars.LazyFrame": "its collect().to_arrow(), or its collect().to_dict(as_series=False)",
    "polars.Series": "its to_numpy(), or its to_list()",
    "pandas.Period": "str() of it",
    "pandas.Interval": "[i.left, i.right]",
    "pyarrow.Scalar": "its as_py()",
    "pyarrow.Array": "its to_pylist()",
    "pyarrow.ChunkedArray": "its to_pylist()",
    "torch.Tensor": "its numpy()",
    "msgspec.Struct": "msgspec.to_builtins() of it",
}
#: The same by an attribute of the type.
_WAYS_BY_ATTRIBUTE = {
    "model_dump": "its model_dump()",
    "__attrs_attrs__": "attrs.asdict() of it",
    "__next__": "list() of it",
    "__array__": "numpy.asarray() of it",
}
#: A longer range is not turned into a list, because no message has room for it: most numbers take five bytes.
_RANGE_MAX = MESSAGE_BYTES_MAX // 5
#: Milliseconds from 1970 on that a Date can hold, in either direction.
_DATE_MS_MAX = 8_640_000_000_000_000
#: More months than that, and few enough for NumPy to convert to days.
_MONTHS_MAX = 10_000_000
#: NumPy's units of time with a fixed length.
_ATTOSECONDS = {
    **{unit: seconds * 10**18 for unit, seconds in {"W": 604_800, "D": 86_400, "h": 3600, "m": 60, "s": 1}.items()},
    **{unit: 10 ** (18 - 3 * at) for at, unit in enumerate(("ms", "us", "ns", "ps", "fs", "as"), 1)},
}


def _way_out(kind: type) -> str:
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        way = _WAYS_OUT.get(
            base.__name__ if package in ("builtins", "types", "fractions") else f"{package}.{base.__name__}"
        )
        if way is not None:
            return way
    for attribute, way in _WAYS_BY_ATTRIBUTE.items():
        if hasattr(kind, attribute):
            return way
    return "what it is made of: dict, list, str, numbers"


def big_bytes(number: int) -> bytes:
    """The shortest big-endian form of an int that is not negative."""
    return int.to_bytes(number, (int.bit_length(number) + 7) // 8, "big")


def _lower_buffer(view: memoryview) -> tuple[int | None, Any]:
    code = view.format.lstrip("@=<" if sys.byteorder == "little" else "@=>")
    tag = _FORMATS[code].get(view.itemsize) if code in _FORMATS else None
    if tag is None:
        raise Refused(f"cannot send a memoryview of format {view.format!r}; cast it to one of BHIQbhiqefd")
    if not view.c_contiguous:
        raise Refused("cannot send a memoryview that is not contiguous; send its tobytes()")
    try:
        raw: Any = view.cast("B") if view.nbytes else b""
    except (TypeError, ValueError):
        raw = view.tobytes()  # cast does not accept "e" before Python 3.12, nor "<d"
    if sys.byteorder == "big":
        raw = _swapped(raw, view.itemsize)
    if view.ndim != 1:
        return 40, [list(view.shape or ()), Tagged(tag, raw)]
    return (None if tag == 64 else tag), raw


def _swapped(raw: Any, size: int) -> bytearray:
    """The items of a big-endian machine, little-endian, or the other way round."""
    out = bytearray(len(raw))
    for at in range(size):
        out[at::size] = bytes(raw)[size - 1 - at :: size]
    return out


def _lower_numpy(array: Any, np: Any) -> tuple[int | None, Any]:
    if hasattr(array, "mask"):
        if type(array).__name__ == "MaskedConstant":
            return None, None
        raise Refused("cannot send a masked array, its mask would be lost; send its filled()")
    array = np.ndarray.view(array, np.ndarray)  # a subclass may say anything about itself
    dtype = array.dtype
    if dtype.kind == "b":
        array = array.view(np.uint8)
        dtype = array.dtype
    elif dtype.kind in "UT":
        return None, array.tolist()
    elif dtype.kind in "mM":
        return None, list(array) if array.ndim else array[()]
    tag = _KINDS[dtype.kind].get(dtype.itemsize) if dtype.kind in _KINDS else None
    if tag is None:
        raise Refused(f"cannot send a NumPy array of {dtype}; convert it with astype() or tolist()")
    flat = np.ascontiguousarray(array).reshape(-1).astype(dtype.newbyteorder("<"), copy=False)
    raw = flat.view(np.ndarray).view(np.uint8).data if flat.size else b""
    if array.ndim != 1:
        return 40, [list(array.shape), Tagged(tag, raw)]
    return (None if tag == 64 else tag), raw


def lower(value: Any) -> tuple[int | None, Any]:
    """The tag and plain form of a value whose exact type the codecs do not know.

    The form is of an exact built-in type; a memoryview in it stands for its bytes. Raises Refused.
    """
    kind = type(value)
    if kind is Tagged:
        return value.tag, value.value
    if kind is StreamRef:
        return 27, ["ipcctl.Stream", value.number]
    if kind is memoryview:
        form = None if share is None else share(value)
        return (27, ["ipcctl.Shared", form]) if form is not None else _lower_buffer(value)
    modules = sys.modules
    np = modules.get("numpy")
    if np is not None and hasattr(np, "ndarray"):
        if isinstance(value, np.ndarray):
            form = None if share is None else share(value)
            return (27, ["ipcctl.Shared", form]) if form is not None else _lower_numpy(value, np)
        if isinstance(value, np.generic):
            if isinstance(value, np.bool_):
                return None, bool(value)
            if isinstance(value, np.datetime64):
                return _lower_datetime64(value, np)
            if isinstance(value, np.timedelta64):  # a subclass of np.integer
                return None, _seconds_of(value, np)
            if isinstance(value, np.integer):
                return None, int(value)
            if isinstance(value, np.floating):
                return None, float(value)
    pandas = modules.get("pandas")
    if pandas is not None and hasattr(pandas, "api"):
        if value is pandas.NaT or value is pandas.NA:
            return None, None
        if isinstance(value, (pandas.Series, pandas.Index, pandas.api.extensions.ExtensionArray)):
            return _lower_column(value, np)
    if isinstance(value, BaseException):
        from ._errors import record_of

        return 27, ["ipcctl.Error", record_of(value)]
    pyarrow = modules.get("pyarrow")
    if pyarrow is not None and lower_arrow is not None and hasattr(pyarrow, "RecordBatch"):
        if isinstance(value, (pyarrow.Table, pyarrow.RecordBatch)):
            result: tuple[int, Any] = lower_arrow(value, pyarrow)
            return result
    datetime = modules.get("datetime")
    if datetime is not None:
        if isinstance(value, datetime.datetime):
            return _lower_datetime(value, datetime)
        if isinstance(value, datetime.date):
            return 1004, datetime.date.isoformat(value)
        if isinstance(value, datetime.timedelta):
            return None, float(value.total_seconds())
        if isinstance(value, datetime.time):
            return None, datetime.time.isoformat(value)
    enum = modules.get("enum")
    if enum is not None and isinstance(value, enum.Enum):
        for _ in range(8):
            value = value.value
            if not isinstance(value, enum.Enum):
                break
        else:
            raise Refused(f"cannot send {kind.__name__}, a member whose value is a member again, without end")
        return (None, value) if value is undefined or type(value) in _PLAIN else lower(value)
    if hasattr(kind, "__dataclass_fields__"):
        import dataclasses

        return None, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    uuid = modules.get("uuid")
    if uuid is not None and isinstance(value, uuid.UUID):
        return 37, value.bytes
    decimal = modules.get("decimal")
    if decimal is not None and isinstance(value, decimal.Decimal):
        return None, decimal.Decimal.__str__(value)
    ipaddress = modules.get("ipaddress")
    if ipaddress is not None and isinstance(value, _addresses(ipaddress)):
        return None, str(value)
    array = modules.get("array")
    if array is not None and isinstance(value, array.array):
        return _lower_buffer(memoryview(value))
    # Subclasses of built-ins: containers by what they iterate (an OrderedDict has its own order).
    if isinstance(value, str):
        return None, str.__str__(value)
    if isinstance(value, int):
        return None, int.__int__(value)
    if isinstance(value, float):
        return None, float.__float__(value)
    if isinstance(value, (bytes, bytearray)):
        return None, bytes(memoryview(value))
    if isinstance(value, dict):
        return None, dict(value)
    if isinstance(value, (list, tuple)):
        return None, list(value)
    if isinstance(value, (set, frozenset)):
        return None, set(value)
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return None, str.__str__(path) if isinstance(path, str) else os.fsdecode(path)
    form = _lower_container(value)
    if form is not None:
        return None, form
    raise Refused(f"cannot send {'a class' if isinstance(value, type) else kind.__name__}; send {_way_out(kind)}")


def _lower_container(value: Any) -> Any:
    """A mapping, a sequence or a view of one, as Python and its library know them, as an exact dict, list or str; else
    None.
    """
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is not None and isinstance(value, sqlite3.Row):
        names = value.keys()
        if len(set(names)) < len(names):
            raise Refused(
                "cannot send a Row of columns that have the same name; name them with AS, or send tuple() of it"
            )
        return dict(zip(names, value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, range):
        if (value.stop - value.start) // value.step > _RANGE_MAX:
            raise Refused(f"cannot send a range of more than {_RANGE_MAX} numbers; send its start, stop and step")
        return list(value)
    collections = sys.modules.get("collections")
    if collections is not None and isinstance(value, collections.UserString):
        return str(value)
    if not isinstance(value, (KeysView, ValuesView, ItemsView, Sequence)):
        return None
    size = len(value)
    items = list(itertools.islice(value, size + 1))
    if len(items) > size:  # one whose __getitem__ raises no IndexError is endless
        raise Refused(
            f"cannot send {type(value).__name__}, which has more items than the {size} of its len(); send a list of them"
        )
    return items


def _addresses(ipaddress: Any) -> tuple[type, ...]:
    return ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network


def _lower_datetime64(value: Any, np: Any) -> tuple[int | None, Any]:
    """Without a time zone, like all of NumPy's: the instant in UTC."""
    if np.isnat(value):
        return None, None
    unit, _ = np.datetime_data(value.dtype)
    fixed = value
    if unit in ("Y", "M"):
        fixed = (
            value.astype("datetime64[D]")
            if abs(int(value.astype(np.int64))) < _MONTHS_MAX
            else np.datetime64(_DATE_MS_MAX, "D")
        )
    milliseconds, rest = divmod(_attoseconds_of(fixed, np), 10**15)
    if abs(milliseconds) > _DATE_MS_MAX:
        raise Refused(f"cannot send {value}, which no Date of JavaScript can hold; send str() of it")
    if rest:
        raise Refused(f"cannot send {value}, which is finer than milliseconds; send its astype('datetime64[ms]')")
    return 1, milliseconds / 1000.0


def _seconds_of(value: Any, np: Any) -> float | None:
    if np.isnat(value):
        return None
    if np.datetime_data(value.dtype)[0] not in _ATTOSECONDS:  # of months, or of no unit
        raise Refused(f"cannot send {value}, which is not a number of seconds; send int() of it")
    return _attoseconds_of(value, np) / 10**18


def _attoseconds_of(value: Any, np: Any) -> int:
    """Computed here, because NumPy converts between units in 64 bits and overflows silently."""
    unit, step = np.datetime_data(value.dtype)
    attoseconds: int = int(value.astype(np.int64)) * int(step) * _ATTOSECONDS[unit]
    return attoseconds


def _lower_column(values: Any, np: Any) -> tuple[int | None, Any]:
    """A Series or an Index of pandas, or an array in one: as its values. Missing values in a column that is not a NumPy
    array become None.
    """
    if isinstance(values.dtype, np.dtype):
        return None, values.tolist() if values.dtype.kind == "O" else values.to_numpy()
    return None, [None if is_missing else one for one, is_missing in zip(values.tolist(), values.isna())]


def _lower_datetime(value: Any, datetime: Any) -> tuple[int, Any]:
    try:
        offset = value.utcoffset()
    except Exception as error:
        raise Refused(
            f"cannot send this {type(value).__name__}, whose utcoffset() fails: {error}; send str() of it"
        ) from None
    if offset is None:
        way = "tz_localize('UTC')" if hasattr(value, "tz_localize") else "astimezone()"
        raise Refused(f"cannot send a naive {type(value).__name__}; give it a tzinfo, as with {way}")
    zero, minute = datetime.timedelta(0), datetime.timedelta(minutes=1)
    if offset == zero and value.microsecond % 1000 == 0:
        utc = value.replace(tzinfo=datetime.timezone.utc)
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return 1, ((utc - epoch) // datetime.timedelta(milliseconds=1)) / 1000.0
    if offset % minute:
        # RFC 3339 has no seconds in an offset (local mean times do): only the instant counts.
        try:
            value = value.astimezone(datetime.timezone.utc)
        except OverflowError:
            raise Refused("cannot send this datetime; its offset has seconds and it is not an instant in UTC") from None
    return 0, datetime.datetime.isoformat(value, timespec="microseconds")


# --- decoding ---

TYPED_TAGS = frozenset(_FORMAT_OF_TAG)
# The major type that must follow each tag known, 8 for a number. 64 stands only inside 40.
TAG_CONTENT = {
    0: 3,
    1: 8,
    2: 2,
    3: 2,
    27: 4,
    37: 2,
    40: 4,
    258: 4,
    259: 5,
    1004: 3,
} | dict.fromkeys(TYPED_TAGS - {64}, 2)

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,32}))?(?:([Zz])|([+-])([01]\d|2[0-3]):([0-5]\d))\Z",
    re.ASCII,
)
_DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)\Z", re.ASCII)


def _bad(detail: str) -> NoReturn:
    raise Refused(detail)


def _revive_text_date(text: str) -> Any:
    import datetime

    match = _RFC3339.match(text) or _bad("a date that is not RFC 3339")
    year, month, day, hour, minute, second, fraction, utc, sign, hours, minutes = match.groups()
    zone = datetime.timezone.utc
    if not utc:
        offset = datetime.timedelta(hours=int(hours), minutes=int(minutes))
        zone = datetime.timezone(-offset if sign == "-" else offset)
    micros = int(((fraction or "") + "000000")[:6])
    try:
        return datetime.datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micros, zone)
    except ValueError:
        _bad("a date that does not exist")


def _revive_seconds(seconds: Any) -> Any:
    import datetime

    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        _bad("a date that is not a number")
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    try:
        return epoch + datetime.timedelta(milliseconds=round(seconds * 1000))
    except (OverflowError, ValueError):
        _bad("a date that Python cannot hold")


def _revive_day(text: str) -> Any:
    import datetime

    match = _DAY.match(text) or _bad("a date that is not YYYY-MM-DD")
    try:
        return datetime.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        _bad("a date that does not exist")


class StreamRef:
    """A stream of the client among the arguments of a call, by its number on the channel."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def _revive_object(value: Any) -> Any:
    if len(value) == 2 and value[0] == "ipcctl.Stream" and type(value[1]) is int:
        return StreamRef(value[1])
    if len(value) > 2 and value[0] == "ipcctl.Reference" and revive_reference is not None:
        return revive_reference(value)
    if len(value) == 2 and value[0] == "ipcctl.Shared" and borrow is not None:
        return borrow(value[1])
    if len(value) > 1 and value[0] == "ipcctl.Bytes" and revive_bytes is not None:
        return revive_bytes(value)
    if len(value) == 2 and value[0] == "ipcctl.Arrow" and revive_arrow is not None:
        return revive_arrow(value[1])
    return _revive_error(value)


def _revive_error(value: Any) -> RemoteError:
    if len(value) != 2 or value[0] != "ipcctl.Error" or type(value[1]) is not dict:
        _bad("tag 27 is not on an ipcctl.Error")
    form = value[1]
    kind, message, stack = form.get("type"), form.get("message"), form.get("traceback")
    if type(kind) is not str or type(message) is not str:
        _bad("an error without type or message")
    if stack is not None and stack is not undefined and type(stack) is not str:
        _bad("an error whose traceback is not text")
    from ._errors import error_of

    return error_of(form)


def revive(tag: int, content: Any) -> Any:
    """The value of a tag and its decoded content (a private bytearray for typed arrays). Raises
    Refused.
    """
    if tag == 0:
        return _revive_text_date(content)
    if tag == 1:
        return _revive_seconds(content)
    if tag == 2:
        return int.from_bytes(content, "big")
    if tag == 3:
        return -1 - int.from_bytes(content, "big")
    if tag == 27:
        return _revive_object(content)
    if tag == 37:
        if len(content) != 16:
            _bad("a UUID that does not have 16 bytes")
        import uuid

        return uuid.UUID(bytes=bytes(content))
    if tag == 1004:
        return _revive_day(content)
    return revive_array(None, tag, content)


def revive_array(shape: list[int] | None, tag: int, raw: bytearray) -> Any:
    """A typed array over `raw`, which nobody else uses: NumPy's if the worker has it, else a memoryview."""
    return view_array(shape, tag, raw)


def view_array(shape: list[int] | None, tag: int, raw: Any) -> Any:
    """The same over any writable bytes; nothing is copied but half floats without NumPy."""
    size = _ITEM_SIZE[tag]
    if len(raw) % size:
        _bad("a typed array that ends inside an item")
    if shape is not None:
        if len(shape) > _MAX_DIMENSIONS:
            _bad("an array of more than 32 dimensions")
        # Lengths beside a zero are checked as well: NumPy holds no larger ones.
        count = math.prod(shape)
        if count != len(raw) // size or math.prod(length or 1 for length in shape) >= 1 << 53:
            _bad("an array whose shape does not fit its data")
    code = _FORMAT_OF_TAG[tag]
    np = sys.modules.get("numpy")
    if np is not None and hasattr(np, "frombuffer"):
        # "frombuffer" refuses nothing to read in older versions.
        flat = np.frombuffer(raw, dtype="<" + code if size > 1 else code) if raw else np.empty(0, code)
        try:
            return flat if shape is None else flat.reshape(shape)
        except (ValueError, OverflowError):
            _bad("an array of a shape that NumPy cannot hold")
    if sys.byteorder == "big":
        raw = _swapped(raw, size)
    if code == "e" and sys.version_info < (3, 12):
        # memoryview does not support half floats yet: the same numbers as floats, not their bits as something else.
        halves = struct.unpack(f"={len(raw) // 2}e", raw)
        raw, code = bytearray(struct.pack(f"={len(halves)}f", *halves)), "f"
    view: Any = memoryview(raw)
    if shape is None or 0 in shape:
        return view.cast(code)  # a memoryview cannot have a shape with zeros
    return view.cast(code, shape)
