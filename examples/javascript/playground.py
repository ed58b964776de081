"""A playground: a server that evaluates what is posted, each request in a runtime of its own.

    python playground.py                                                listens, and tells where
    curl http://127.0.0.1:PORT/ -d '{"code": "console.log(1); 2 + 2"}'

``--demo`` asks it something, and ends. Prints then:

    2 + 2 -> {"value": "4", "console": []}
    console.log('a', {b: 1}); 'done' -> {"value": "'done'", "console": ["log: a { b: 1 }"]}
    null.x -> {"error": "TypeError: null is not an object (evaluating 'null.x')", "console": []}
    for (;;); -> {"error": "stopped after 1 s", "console": []}
    const n: number = 7; n -> {"value": "7", "console": []}
    no code -> 400
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ipcctl.js import JavaScriptError, JsTimeout, Runtime, RuntimeTerminated

CODE_BYTES_MAX = 100_000


def run(code: str) -> dict[str, Any]:
    said: list[str] = []
    with Runtime(max_memory=64 << 20, typescript=True) as runtime:
        try:
            value = runtime.eval(code, timeout=1, console=lambda level, text: said.append(f"{level}: {text}"))
            return {"value": repr(value), "console": said}
        except JsTimeout:
            return {"error": "stopped after 1 s", "console": said}
        except RuntimeTerminated as error:
            return {"error": str(error), "console": said}
        except (JavaScriptError, RuntimeError) as error:
            return {"error": str(error).removeprefix("Evaluation failed: "), "console": said}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        try:
            length = int(self.headers["Content-Length"])
            if length > CODE_BYTES_MAX:
                raise ValueError
            code = json.loads(self.rfile.read(length))["code"]
            if not isinstance(code, str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            self.send_error(400, "post an object with code")
            return
        body = json.dumps(run(code)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def demo(url: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    codes = [
        "2 + 2",
        "console.log('a', {b: 1}); 'done'",
        "null.x",
        "for (;;);",
        "const n: number = 7; n",
    ]
    for code in codes:
        with direct.open(url, json.dumps({"code": code}).encode()) as answer:
            print(f"{code} -> {answer.read().decode()}")
    try:
        direct.open(url, b"{}")
    except urllib.error.HTTPError as error:
        print(f"no code -> {error.code}")
        error.close()


with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    url = f"http://127.0.0.1:{server.server_port}/"
    if "--demo" in sys.argv:
        threading.Thread(target=server.serve_forever).start()
        demo(url)
        server.shutdown()
    else:
        print(url, flush=True)
        server.serve_forever()
