"""Libraries of npm in Python: the user needs neither Node nor npm, only the sources of the packages.

    npm install marked ms                   wherever you like, once
    python markdown.py FOLDER               which has node_modules

Prints:

    <h1>Title</h1>
    <p>Some <em>text</em> with <code>code</code>.</p>
    two days are 172800000 ms
    as one file without the folder: <p><strong>bold</strong></p>
    a package that is not there: Module evaluation failed
"""

from __future__ import annotations

import sys
from pathlib import Path

from ipcctl.js import JavaScriptError, Runtime, RuntimeConfig, bundle

packages = Path(sys.argv[1])

with Runtime(RuntimeConfig(modules=packages)) as runtime:
    marked = runtime.eval_module("marked")["marked"]
    print(marked("# Title\n\nSome *text* with `code`.").strip())
    ms = runtime.eval_module("ms")["default"]
    print(f"two days are {ms('2 days')} ms")

# A source and all that it imports as one text: to be kept, and shipped with the program.
source = bundle("import { marked } from 'marked'; export const render = (text) => marked(text);", packages)
with Runtime() as runtime:
    runtime.add_static_module("render", source)
    render = runtime.eval_module("render")["render"]
    print("as one file without the folder:", render("**bold**").strip())
    try:
        runtime.eval_module("nowhere")
    except JavaScriptError as error:
        print("a package that is not there:", str(error).split(":")[0])
