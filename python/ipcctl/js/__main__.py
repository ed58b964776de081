"""``python -m ipcctl.js (-c CODE | FILE)``: prints the value of a script, unless it is undefined."""

from __future__ import annotations

import argparse
import os
import sys

from . import JavaScriptError, Runtime, RuntimeConfig, undefined


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ipcctl.js", description="Runs JavaScript, or a .ts file of TypeScript, and prints its value."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-c", dest="code", metavar="CODE", help="JavaScript to run")
    what.add_argument("file", nargs="?", metavar="FILE", help="a file of JavaScript; - is standard input")
    flags = parser.parse_args(argv)
    try:
        code = flags.code
        if code is None:
            code = sys.stdin.read() if flags.file == "-" else _read(flags.file)
        is_typescript = flags.file is not None and flags.file.endswith((".ts", ".mts", ".cts"))
        with Runtime(RuntimeConfig(enable_console=True, typescript=is_typescript)) as runtime:
            value = runtime.eval(code)
        if value is not undefined:
            print(value)
        sys.stdout.flush()
    except JavaScriptError as error:
        print(f"JavaScript Error: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # What could not be written is not tried again, and told again, at the end of the interpreter.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as other commands whose reader has ended, such as `head`
            return 141
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    sys.exit(main())
