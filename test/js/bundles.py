"""Packages of npm, imported and bundled. `IPCCTL_TEST_PACKAGES` is a folder where some are installed."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cases import Took, case, equal, expect, fails, main

PACKAGES = os.environ.get("IPCCTL_TEST_PACKAGES", "")
# What other cases have made must not be found.
home = tempfile.TemporaryDirectory(prefix="ipcctl-bundles-")
os.environ["IPCCTL_HOME"] = home.name


@contextmanager
def folder(files: dict[str, str]) -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="ipcctl-packages-") as root:
        os.chmod(root, 0o755)  # an engine may run as another user
        for name, text in {"node_modules/-": "", **files}.items():
            path = pathlib.Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        yield pathlib.Path(root)


@case("lodash, marked, ms, zod and date-fns are imported by their names and do what they do", only_ours=True)
def packages(js: Any) -> None:
    source = """
    import _ from "lodash";
    import { marked } from "marked";
    import ms from "ms";
    import { z } from "zod";
    import { addDays, formatISO } from "date-fns";
    import { de } from "date-fns/locale";
    import { chunk } from "lodash-es";
    const Shape = z.object({ area: z.number().min(1) });
    export const results = [
      _.chunk([1, 2, 3], 2), chunk([1, 2, 3], 2), marked("# hi"), ms("2 days"), de.code,
      formatISO(addDays(new Date(2020, 1, 28), 1), { representation: "date" }),
      Shape.safeParse({ area: 2 }).success, Shape.safeParse({ area: 0 }).error.issues[0].path,
    ];
    export const parse = (value) => Shape.parse(value);
    """
    with js.Runtime(modules=PACKAGES) as one:
        one.add_static_module("main", source)
        found = one.eval_module("main")
        right = [[[1, 2], [3]], [[1, 2], [3]], "<h1>hi</h1>\n", 172800000, "de", "2020-02-29", True, ["area"]]
        equal(found["results"], right)
        equal(found["parse"]({"area": 5}), {"area": 5})
        equal(fails(lambda: found["parse"]({}), js.JavaScriptError).name, "ZodError")  # type: ignore[attr-defined]


@case("Files of packages are data where they are imported as that", only_ours=True)
def data(js: Any) -> None:
    files = {
        "node_modules/shop/package.json": '{"main": "main.js", "version": "1.2"}',
        "node_modules/shop/main.js": "module.exports = 5",
        "node_modules/shop/notes.txt": "notes \u00e9",
        "node_modules/shop/raw.txt": "\u00e9",
        "secret.txt": "secret",
    }
    source = """
    import shop from "shop";
    import manifest from "shop/package.json" with { type: "json" };
    import text from "shop/notes.txt" with { type: "text" };
    import bytes from "shop/raw.txt" with { type: "bytes" };
    export const results = [shop, manifest.version, text, bytes.length];
    """
    with folder(files) as root, js.Runtime(modules=root) as one:
        one.add_static_module("main", source)
        equal(one.eval_module("main")["results"], [5, "1.2", "notes \u00e9", 2])

        async def later() -> Any:
            return await one.eval_async("import('shop/notes.txt', { with: { type: 'text' } }).then((m) => m.default)")

        equal(asyncio.run(later()), "notes \u00e9")
        (root / "node_modules/shop/link.txt").symlink_to("/etc/passwd")
        for name in ("shop/link.txt", "shop/../../secret.txt", "npm:/secret.txt", "npm:/node_modules/shop/link.txt"):
            one.add_static_module("main", f"import text from '{name}' with {{ type: 'text' }}; export default text")
            fails(lambda: one.eval_module("main"), js.JavaScriptError)


@case(
    "import() of a script, an async request and npm: find packages too; of CommonJS the names that its text shows",
    only_ours=True,
)
def ways(js: Any) -> None:
    async def work() -> list[Any]:
        one.add_static_module(
            "main", "import ms, { default as same } from 'npm:ms'; export const x = same === ms && ms('1s')"
        )
        return [
            await one.eval_async("import('ms').then((it) => it.default(1000))"),
            (await one.eval_module_async("main"))["x"],
            await one.eval_async("import('react').then(({ createElement }) => createElement('p', null, 1).type)"),
        ]

    with js.Runtime(modules=os.path.join(PACKAGES, "node_modules")) as one:
        equal(asyncio.run(work()), ["1s", 1000, "p"])


@case("a file of a package is one module, whoever imports it", only_ours=True)
def one_module(js: Any) -> None:
    files = {
        "node_modules/store/package.json": '{"type": "module", "exports": {".": "./main.js", "./side": "./side.js"}}',
        "node_modules/store/main.js": "import './inner.js'; export const held = []",
        "node_modules/store/inner.js": "globalThis.runs = (globalThis.runs ?? 0) + 1",
        "node_modules/store/side.js": "export { held } from 'store'",
        "node_modules/user/package.json": '{"module": "./lib/index.mjs", "main": "./nothing.js"}',
        "node_modules/user/lib/index.mjs": "import { held } from 'store'; held.push(1);"
        "import deep from 'deep'; export { deep }",
        "node_modules/user/node_modules/deep/package.json": '{"main": "index"}',
        "node_modules/user/node_modules/deep/index.js": "module.exports = 'nested'",
        "node_modules/deep/index.js": "exports.__esModule = true; exports.default = 'outer'; exports.name = 'n'",
    }
    source = "import { held } from 'store'; import { held as again } from 'store/side'; import { deep } from 'user'; "
    source += "import outer, { name } from 'deep';"
    source += "export const seen = [held, held === again, deep, outer, name, globalThis.runs]"
    with folder(files) as root, js.Runtime(modules=root) as one:
        one.add_static_module("main", source)
        equal(one.eval_module("main")["seen"], [[1], True, "nested", "outer", "n", 1])


@case("what a package exports is what can be imported, by its conditions and patterns", only_ours=True)
def exports(js: Any) -> None:
    manifest = {
        "exports": {
            ".": {"types": "./types.d.ts", "node": "./node.js", "import": "./import.mjs", "default": "./default.js"},
            "./feature/*": "./features/*.mjs",
            "./feature/private/*": None,
            "./only-node": {"node": "./node.js"},
            "./first": [{"nothing": "./node.js"}, "./import.mjs"],
            "./out": "../../secret.js",
        }
    }
    files = {
        "node_modules/@a/b/package.json": json.dumps(manifest),
        "node_modules/@a/b/import.mjs": "export const which = 'import'",
        "node_modules/@a/b/node.js": "exports.which = 'node'",
        "node_modules/@a/b/features/x.mjs": "export const which = 'x'",
        "node_modules/@a/b/features/private/y.mjs": "export const which = 'y'",
        "secret.js": "export const which = 'secret'",
        "node_modules/broken/package.json": "{",
        "node_modules/native/index.node": "",
        "node_modules/native/package.json": '{"main": "index.node"}',
    }
    with folder(files) as root, js.Runtime(modules=root) as one:
        for name, which in {"@a/b": "import", "@a/b/feature/x": "x", "@a/b/first": "import"}.items():
            equal(one.eval_module(name)["which"], which)
        wrong = [
            "@a/b/import.mjs",
            "@a/b/feature/nothing",
            "@a/b/feature/private/y",
            "@a/b/only-node",
            "@a/b/out",
            "@a",
        ]
        wrong += [
            "@a/b/../../../secret.js",
            "@a/b/feature/../../../../secret",
            "broken",
            "native",
            "nothing",
            "npm:/secret.js",
        ]
        for name in wrong:
            fails(lambda: one.eval_module(name), js.JavaScriptError)


@case("nothing outside of the folder gets into a module: links, files of other kinds, absolute paths", only_ours=True)
def outside(js: Any) -> None:
    files = {
        "node_modules/text/index.js": "import x from '/etc/passwd' with { type: 'text' }; export { x }",
        "node_modules/up/index.js": "import x from '../../../../../../etc/hostname' with { type: 'text' }; export { x }",
        "node_modules/link/index.js": "export * from './linked.js'",
        "node_modules/macro/index.js": "import { readFileSync } from 'fs' with { type: 'macro' };"
        "export const x = readFileSync('/etc/passwd', 'utf8')",
    }
    with folder(files) as root, tempfile.TemporaryDirectory() as other:
        os.chmod(other, 0o755)
        secret = pathlib.Path(other, "secret.js")
        secret.write_text("export const x = 'secret'")
        os.symlink(secret, root / "node_modules/link/linked.js")
        os.symlink(other, root / "node_modules/linked-package")
        os.symlink(secret, root / "node_modules/link/package-main.js")
        with js.Runtime(modules=root) as one:
            for name in ("text", "up", "link", "macro", "linked-package/secret.js", "link/package-main.js"):
                try:
                    found = one.eval_module(name)
                except js.JavaScriptError:
                    continue
                raise AssertionError(f"{name} gives {found!r}")


@case(
    "a source is bundled with its packages, as a module and as a script, with places of its own lines", only_ours=True
)
def bundled(js: Any) -> None:
    source = "import { chunk } from 'lodash-es';\nimport ms from 'ms';\n\ninterface A { a: number }\n"
    source += "export const x: unknown = [chunk([1, 2, 3], 2), ms('1s')];\n"
    source += "export function fail(of: A): never {\n  throw new RangeError('no' as string);\n}\n"
    with js.Runtime() as one:
        one.add_static_module("made", js.bundle(source, PACKAGES))
        found = one.eval_module("made")
        equal(found["x"], [[[1, 2], [3]], 1000])
        error: Any = fails(lambda: found["fail"]({}), js.JavaScriptError, "no")
        frame = error.frames[0]
        equal((frame["function_name"], frame["file_name"], frame["line_number"]), ("fail", "source.ts", 7))
        expect("source.ts:7:" in error.stack, error.stack)
        one.eval(js.bundle("import _ from 'lodash'; globalThis._ = _", PACKAGES, format="script", minify=True))
        equal(one.eval("_.sum([1, 2])"), 3)
        one.add_static_module("el", js.bundle("export const n = 1 + 1"))
        equal(one.eval_module("el"), {"n": 2})


@case("what goes wrong in a package has the place in its file", only_ours=True)
def places(js: Any) -> None:
    files = {
        "node_modules/thrower/package.json": '{"main": "main.js"}',
        "node_modules/thrower/main.js": "const { deep } = require('./deep.js');\n"
        "exports.go = () => { const made = deep(); return made; };\n",
        "node_modules/thrower/deep.js": "\n\nexports.deep = function deep() {\n  throw new Error('deep');\n};\n",
    }
    with folder(files) as root, js.Runtime(modules=root) as one:
        error: Any = fails(one.eval_module("thrower")["go"], js.JavaScriptError, "deep")
        seen = [(frame["file_name"], frame["line_number"]) for frame in error.frames[:2]]
        equal(seen, [("node_modules/thrower/deep.js", 4), ("node_modules/thrower/main.js", 2)])


@case("what cannot be bundled is told with its place", only_ours=True)
def wrong(js: Any) -> None:
    with folder({"node_modules/bad/index.js": "let a = 1;\nlet b = = 2; module.exports = 1"}) as root:
        fails(lambda: js.bundle("import x from 'nothing'; x()", root), js.BundleError, 'Could not resolve: "nothing"')
        fails(lambda: js.bundle("let x: = 1"), js.BundleError, "source.ts:1:")
        fails(lambda: js.bundle("import x from 'bad'; x()", root), js.BundleError, "index.js:2:")
        fails(lambda: js.bundle(5), TypeError, "str")
    fails(lambda: js.Runtime(modules="/nonexistent"), ValueError, "node_modules")


@case("what was bundled is kept by the contents of its files, for other programs too", only_ours=True)
def kept(js: Any) -> None:
    from ipcctl.js import _packages

    with folder(
        {
            "node_modules/a/index.js": "export const x = 1; export { y } from './y.js'",
            "node_modules/a/y.js": "export const y = 1",
        }
    ) as root:

        def value() -> Any:
            with js.Runtime(modules=root) as one:
                return one.eval_module("a")

        equal(value(), {"x": 1, "y": 1})
        made = _packages.Packages._make
        calls = []
        _packages.Packages._make = lambda self, request: (calls.append(request), made(self, request))[1]  # type: ignore
        equal(value(), {"x": 1, "y": 1})
        _packages._memory.clear()
        equal(value(), {"x": 1, "y": 1})
        equal(len(calls), 0)
        (root / "node_modules/a/y.js").write_text("export const y = 2")
        equal(value(), {"x": 1, "y": 2})
        equal(len(calls), 1)
        _packages._memory.clear()
        for one in pathlib.Path(_packages._folder()).iterdir():
            one.write_text("[" * 100_000)
        equal(value(), {"x": 1, "y": 2})
        shutil.rmtree(_packages._folder())
        _packages._memory.clear()
        with Took() as took:
            equal(value(), {"x": 1, "y": 2})
        expect(took.seconds < 10, f"it took {took.seconds:.1f} s")


if __name__ == "__main__":
    main()
