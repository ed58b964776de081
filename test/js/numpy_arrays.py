"""Arrays of NumPy, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import case, equal, fails, main
from ipcctl import shared

FORMS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
KIND = "(array) => array.constructor.name + ' ' + array"


@case("An array of NumPy is a typed array of its type")
def to_javascript(js: Any) -> None:
    with js.Runtime() as runtime:
        kind = runtime.eval(KIND)
        for form in FORMS:
            name = {"int64": "BigInt64", "uint64": "BigUint64"}.get(form, form.replace("ui", "UI").capitalize())
            equal(kind(np.array([1, 2], form)), f"{name}Array 1,2")
        equal(kind(np.arange(6, dtype="i4")[::2]), "Int32Array 0,2,4")
        equal(kind(np.array([1, 2], ">f8")), "Float64Array 1,2")
        equal(kind(np.array([], "f4")), "Float32Array ")
        equal(runtime.eval("(x) => [typeof x, x]")(np.float64(1.5)), ["number", 1.5])


@case("One of more dimensions is its shape and its data")
def of_more_dimensions(js: Any) -> None:
    with js.Runtime() as runtime:
        parts = runtime.eval("({ shape, data }) => shape.join('x') + ' ' + data.constructor.name + ' ' + data")
        grid = np.arange(6, dtype="f4").reshape(2, 3)
        equal(parts(grid), "2x3 Float32Array 0,1,2,3,4,5")
        equal(parts(grid.T), "3x2 Float32Array 0,3,1,4,2,5")
        equal(parts(np.array(5, "i2")), " Int16Array 5")


@case("They lead a guest to nothing of the engine's own realm, nor does code of the guest that handles lists")
def of_the_guest(js: Any) -> None:
    with js.Runtime() as runtime:
        runtime.eval("""globalThis.seen = [];
          for (const key of ["every", "map", "reduce", "forEach", "push", "join", Symbol.iterator])
            Array.prototype[key] = function (...args) { seen[seen.length] = args; return this; };
          Object.defineProperty(Object.getPrototypeOf(Uint8Array.prototype), "length", { get() { return 1e9 } }); 1""")
        kind = runtime.eval("(x) => x.constructor === Object && x.constructor.constructor('return typeof process')()")
        reach = runtime.eval("(x) => x.data.constructor.constructor('return typeof process')()")
        for array in (np.ones((2, 2)), np.array(5), np.frombuffer(shared(32), "f8").reshape(2, 2)):
            equal(kind(array), "undefined")
            equal(reach(array), "undefined")
        equal(runtime.eval("seen.length"), 0)


@case("A typed array is an array of NumPy, which may be written")
def to_python(js: Any) -> None:
    with js.Runtime() as runtime:
        for code, form in (("Float64Array", "f8"), ("Int16Array", "i2"), ("BigUint64Array", "u8")):
            values = "[1n, 2n]" if code.startswith("Big") else "[1, 2]"
            found = runtime.eval(f"new {code}({values})")
            equal(type(found), np.ndarray)
            equal((found.dtype.str[1:], found.tolist()), (form, [1, 2] if form != "f8" else [1.0, 2.0]))
            found[0] = 7
        equal(runtime.eval("new Uint8Array([1, 2])"), b"\x01\x02")


@case("Memory that is shared is one for NumPy and JavaScript")
def is_shared(js: Any) -> None:
    with js.Runtime() as runtime:
        array = np.frombuffer(shared(800), dtype="f8").reshape(10, 10)
        array[1, 1] = 3
        equal(runtime.eval("({ data }) => { data[12] = 4; return data[11]; }")(array), 3)
        equal(array[1, 2].item(), 4.0)


@case("What has no form in JavaScript is refused, with the way out")
def refused(js: Any) -> None:
    with js.Runtime() as runtime:
        take = runtime.eval("(x) => 1")
        fails(lambda: take(np.array([1j])), RuntimeError, "complex128; convert it with astype() or tolist()")
        fails(lambda: take([np.array([object()])]), RuntimeError, "object; convert it")
        equal(take(np.array([1])), 1)


if __name__ == "__main__":
    main()
