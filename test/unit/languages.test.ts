/**
 * One table of what runs: the words that are executed, how the boot of Python comes to them, and the policy where none
 * is named.
 */
import { expect, test } from "bun:test";
import { symlinkSync } from "node:fs";
import { join } from "node:path";
import { PYTHON_BOOT } from "../../src/base/install.ts";
import { decideLaunch, resolveLaunch } from "../../src/launch/command.ts";
import type { Launchable } from "../../src/launch/languages.ts";
import { policyOf, type Governed } from "../../src/launch/effective-policy.ts";
import { temporaryTree } from "../tree.ts";

const { dir, put } = temporaryTree("languages");

/** A program that is none: nothing may run it to find out what it is. */
const ELF = "\x7fELF";
const trap = (path: string, shebang: string): string => put(path, `${shebang}\ntouch ${join(dir, "was-run")}\n`, 0o755);

for (const name of ["python3", "python3.12", "pypy3", "node", "sh", "bash", "perl", "nice", "timeout", "uv", "runner"])
  put(`bin/${name}`, ELF, 0o755);
symlinkSync(join(dir, "bin/python3.12"), join(dir, "bin/snake"));
trap("bin/conda", `#!${join(dir, "bin/python3")}`);
trap("bin/gunicorn", `#!${join(dir, "bin/python3")}`);
trap("bin/isolated", `#!${join(dir, "bin/python3")} -Es`);
trap("bin/shelltool", "#!/bin/sh");
trap("shims/python3", "#!/usr/bin/env bash");
put("plain/x.py");
put("plain/x");
put("plain/x.sh");
put("plain/x.ts");
put("plain/pkg/__main__.py");
put("plain/env.py", "#!/usr/bin/env python3\n");
put("plain/version.py", "#!/usr/bin/env python3.12\n");
put("plain/split.py", "#!/usr/bin/env -S python3 -u -X dev\n");
put("plain/joined.py", "#!/usr/bin/env python3 -u\n");
put("plain/vars.py", "#!/usr/bin/env -S A=1 python3\n");
put("plain/clear.py", "#!/usr/bin/env -iS A=1 python3\n");
put("plain/uv.py", "#!/usr/bin/env -S uv run --script\n");
put("plain/uvquiet", "#!/usr/bin/env -S uv --quiet run --with rich --script\n");
put("plain/system.py", "#!/usr/bin/python3 -O\n");
put("plain/crlf.py", "#!/usr/bin/env python3\r\nprint()\r\n");
put("plain/own", `#!${join(dir, "bin/python3.12")}\n`);
put("plain/node.py", "#!/usr/bin/env node\n");
put("plain/tool", "#!/bin/sh\n");
put("plain/poly.py", "#!/bin/sh\n");
put("plain/handed", '#!/bin/sh\n"exec" "python3" "-u" "$0" "$@"\n');
put("plain/wrapped", '#!/bin/sh\nexec python3 "$(dirname "$0")/x.py" "$@"\n');
put("bin/ours", '#!/bin/sh\nset -e\nexec /opt/python3 -u "$@"\n', 0o755);
put("plain/ours", "#!/usr/bin/env ours\n");
put("plain/where", `#!/bin/sh\npython3 -c 'import sys; print(sys.argv[1])' "$0"\n`);
put("plain/remark", `#!/bin/sh\n# not python3 "$0"\n`);
// What a shell and Python can both read: it is for Python.
put("plain/colon", '#!/bin/sh\n""":"\nexec python3 "$0" "$@"\n":"""\n');
put("plain/quoted", `#!/bin/sh\n''''exec /opt/python3 -u -X dev -- "$0" "$@" # '''\n`);
put("plain/which", `#!/bin/sh\n'''which' python3 >/dev/null && exec python3 "$0" "$@"\n'''\n`);
put("plain/variable", `#!/bin/sh\n'''exec' "$PYTHON" "$0" "$@"\n' '''\n`);
put("plain/uvshort", "#!/usr/bin/env -S uv run -qs\n");
put("plain/circle", "#!/usr/bin/env -S uv run\n", 0o755);
put("plain/real-pypy", "#!/opt/pypy3.10-c\n");
put("plain/-I.py");
for (const ending of ["sh", "js", "json"]) put(`plain/pkg.${ending}/__main__.py`);
put("plain/asked", '#!/bin/sh\n"exec" "$(which python3)" "$0" "$@"\n');
trap("bin/long", `#!/bin/sh\n'''exec' "${join(dir, "bin/python3")}" "$0" "$@"\n' '''`);
trap("proj/.venv/bin/moved", `#!/bin/sh\n'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"\n' '''`);
put("plain/pypy.py", "#!/usr/bin/env pypy3\n");
put("plain/perl", "#!/usr/bin/perl\n");
put("proj/.venv/pyvenv.cfg");
for (const name of ["python", "python3"]) put(`proj/.venv/bin/${name}`, ELF, 0o755);
trap("proj/.venv/bin/gunicorn", `#!${join(dir, "proj/.venv/bin/python")}`);
put("proj/x.py");
put("proj/env.py", "#!/usr/bin/env python3\n");
put("proj/own.py", `#!${join(dir, "bin/python3.12")}\n`);
put("proj/clear.py", "#!/usr/bin/env -S -i python3\n");

const BIN = join(dir, "bin");
const VENV = join(dir, "proj/.venv/bin/python");
type Wanted = Partial<Launchable & Governed> & { readonly isOnce?: boolean; readonly path?: string };
/** What is executed, as words; how the boot gets in; the policy. */
type Expected = readonly [argv: string, boot: "environment" | "words" | "none", policy: string];

const CASES: readonly (readonly [Wanted, Expected])[] = [
  // by the ending
  [{ script: "x.py" }, ["python3 x.py", "environment", "no-network"]],
  [{ script: "x.py", args: ["-I", "a b"] }, ["python3 x.py -I a b", "environment", "no-network"]],
  [{ script: "x" }, ["python3 x", "environment", "no-network"]],
  [{ script: "pkg" }, ["python3 pkg", "environment", "no-network"]],
  [{ script: "x.sh" }, ["sh x.sh", "none", "trusted"]],
  [{ script: "x.ts" }, [`${process.execPath} x.ts`, "none", "trusted"]],
  // by the `#!` line
  [{ script: "env.py" }, ["python3 env.py", "environment", "no-network"]],
  [{ script: "version.py" }, ["python3.12 version.py", "environment", "no-network"]],
  [{ script: "split.py" }, ["python3 -u -X dev split.py", "environment", "no-network"]],
  [{ script: "joined.py" }, ["python3 -u joined.py", "environment", "no-network"]],
  [{ script: "vars.py" }, ["python3 vars.py", "environment", "no-network"]],
  [{ script: "clear.py" }, ["python3 clear.py", "environment", "no-network"]],
  [{ script: "crlf.py" }, ["python3 crlf.py", "environment", "no-network"]],
  [{ script: "system.py" }, ["python3 -O system.py", "environment", "no-network"]],
  [{ script: "own" }, [`${BIN}/python3.12 own`, "environment", "no-network"]],
  [{ script: "pypy.py" }, ["pypy3 pypy.py", "environment", "no-network"]],
  [{ script: "uv.py" }, ["uv run --script uv.py", "environment", "no-network"]],
  [{ script: "uvquiet" }, ["uv --quiet run --with rich --script uvquiet", "environment", "no-network"]],
  [{ script: "tool" }, ["/bin/sh tool", "none", "trusted"]],
  [{ script: "perl" }, ["/usr/bin/perl perl", "none", "trusted"]],
  [{ script: "node.py" }, ["node node.py", "none", "no-network"]],
  [{ script: "poly.py" }, ["/bin/sh poly.py", "environment", "no-network"]],
  [{ script: "handed" }, ["python3 -u handed", "environment", "no-network"]],
  [{ script: "asked" }, ["/bin/sh asked", "environment", "no-network"]],
  [{ script: "wrapped" }, ["/bin/sh wrapped", "none", "trusted"]],
  [{ script: "ours" }, ["ours ours", "environment", "no-network"]],
  [{ script: "x", interpreter: "ours" }, ["ours x", "environment", "no-network"]],
  [{ script: "where" }, ["/bin/sh where", "none", "trusted"]],
  [{ script: "remark" }, ["/bin/sh remark", "none", "trusted"]],
  ...["colon", "quoted", "which", "variable"].map((script): (typeof CASES)[number] => [
    { script },
    [`/bin/sh ${script}`, "environment", "no-network"],
  ]),
  [{ script: "uvshort" }, ["uv run -qs uvshort", "environment", "no-network"]],
  [{ script: "circle" }, ["uv run circle", "environment", "no-network"]],
  [{ script: "real-pypy" }, ["/opt/pypy3.10-c real-pypy", "environment", "no-network"]],
  [{ script: "-I.py" }, ["python3 ./-I.py", "environment", "no-network"]],
  [{ script: "pkg.sh" }, ["python3 pkg.sh", "environment", "no-network"]],
  [{ script: "pkg.json" }, ["python3 pkg.json", "environment", "no-network"]],
  [{ script: "pkg.js" }, ["python3 pkg.js", "environment", "no-network"]],
  // by --interpreter
  [{ script: "x.py", interpreter: "env python3" }, ["python3 x.py", "environment", "no-network"]],
  [{ script: "x", interpreter: "env python3" }, ["python3 x", "environment", "no-network"]],
  [{ script: "x", interpreter: "/usr/bin/env -i A=1 python3 -u" }, ["python3 -u x", "environment", "no-network"]],
  [{ script: "x", interpreter: "env -S 'A=1 python3 -u'" }, ["python3 -u x", "environment", "no-network"]],
  [{ script: "x", interpreter: "env -u HOME -C / -- python3" }, ["python3 x", "environment", "no-network"]],
  [{ script: "x", interpreter: "nice -n 5 python3" }, ["nice -n 5 python3 x", "environment", "no-network"]],
  [{ script: "x", interpreter: "nice -5 env -i python3" }, [`${BIN}/nice -5 python3 x`, "environment", "no-network"]],
  [
    { script: "x", interpreter: "timeout 9 env PATH=/none /opt/python3" },
    [`${BIN}/timeout 9 /opt/python3 x`, "environment", "no-network"],
  ],
  [{ script: "x", interpreter: "timeout -k 1 60 python3" }, ["timeout -k 1 60 python3 x", "environment", "no-network"]],
  [{ script: "x", interpreter: "nohup python3" }, ["nohup python3 x", "environment", "no-network"]],
  [{ script: "x", interpreter: "setsid -w python3" }, ["python3 x", "environment", "no-network"]],
  [{ script: "x", interpreter: "stdbuf -oL -e 0 python3" }, ["stdbuf -oL -e 0 python3 x", "environment", "no-network"]],
  [{ script: "x", interpreter: "taskset -c 0 python3" }, ["taskset -c 0 python3 x", "environment", "no-network"]],
  [
    { script: "x", interpreter: "nice timeout 9 stdbuf -o0 python3" },
    ["nice timeout 9 stdbuf -o0 python3 x", "environment", "no-network"],
  ],
  [{ script: "x", interpreter: "uv run python" }, ["uv run python x", "environment", "no-network"]],
  [{ script: "x", interpreter: "uv run --with rich -s" }, ["uv run --with rich -s x", "environment", "no-network"]],
  [{ script: "x.py", interpreter: "uv run -p 3.12" }, ["uv run -p 3.12 x.py", "environment", "no-network"]],
  [
    { script: "x", interpreter: "conda run -n base python" },
    ["conda run -n base BOOT python x", "words", "no-network"],
  ],
  [
    { script: "x", interpreter: "conda run --no-capture-output -p /c nice python" },
    ["conda run --no-capture-output -p /c nice BOOT python x", "words", "no-network"],
  ],
  [
    { script: "x", interpreter: "micromamba run -n e python" },
    ["micromamba run -n e python x", "environment", "no-network"],
  ],
  [{ script: "x", interpreter: "poetry run python" }, ["poetry run BOOT python x", "words", "no-network"]],
  [{ script: "x", interpreter: "snake" }, ["snake x", "environment", "no-network"]],
  [{ script: "x", interpreter: "python3 -I" }, ["python3 -I x", "none", "no-network"]],
  [{ script: "x", interpreter: "python3 -X dev -sE" }, ["python3 -X dev -sE x", "none", "no-network"]],
  [{ script: "x", interpreter: "python3 -W ignore" }, ["python3 -W ignore x", "environment", "no-network"]],
  [{ script: "x", interpreter: "python3", path: join(dir, "shims") }, ["python3 x", "environment", "no-network"]],
  [{ script: "x.py", interpreter: "runner" }, ["runner x.py", "environment", "no-network"]],
  [
    { script: "x", interpreter: "runner --exec /opt/python3" },
    ["runner --exec /opt/python3 x", "environment", "no-network"],
  ],
  [
    { script: "x", interpreter: "sh -c 'exec python3 \"$0\"'" },
    ['sh -c exec python3 "$0" x', "environment", "no-network"],
  ],
  [
    { script: "x", interpreter: "sh -c 'cd /&&python3 \"$0\"'" },
    ['sh -c cd /&&python3 "$0" x', "environment", "no-network"],
  ],
  [{ script: "x", interpreter: "sh /python/run" }, ["sh /python/run x", "none", "trusted"]],
  [
    { script: "x", interpreter: "env --block-signal=INT python3" },
    ["env --block-signal=INT python3 x", "environment", "no-network"],
  ],
  [{ script: "x.ts", interpreter: "node" }, ["node x.ts", "none", "trusted"]],
  [{ script: "x", interpreter: "runner" }, ["runner x", "none", "trusted"]],
  // a venv beside the script, or beside where it runs
  [{ cwd: "proj", script: "x.py" }, [`${VENV} x.py`, "environment", "no-network"]],
  [{ script: "../proj/x.py" }, [`${VENV} ../proj/x.py`, "environment", "no-network"]],
  [{ cwd: "proj", script: "../plain/x.py" }, [`${VENV} ../plain/x.py`, "environment", "no-network"]],
  [{ cwd: "proj", script: "env.py" }, [`${VENV} env.py`, "environment", "no-network"]],
  [{ cwd: "proj", script: "clear.py" }, [`${VENV} clear.py`, "environment", "no-network"]],
  [{ cwd: "proj", script: "own.py" }, [`${BIN}/python3.12 own.py`, "environment", "no-network"]],
  [{ cwd: "proj", script: "x.py", interpreter: "python3" }, ["python3 x.py", "environment", "no-network"]],
  // commands are what their user says
  [{ command: "python3", args: ["x.py"] }, ["python3 x.py", "environment", "trusted"]],
  [{ command: "env", args: ["-i", "python3", "x.py"] }, ["python3 x.py", "environment", "trusted"]],
  [{ command: "env", args: [] }, ["env", "none", "trusted"]],
  [{ command: "gunicorn", args: ["app:api"] }, ["gunicorn app:api", "environment", "trusted"]],
  [{ command: "isolated", args: [] }, ["isolated", "none", "trusted"]],
  [{ command: "long", args: ["app:api"] }, ["long app:api", "environment", "trusted"]],
  [{ cwd: "proj", command: "moved", args: [] }, ["moved", "environment", "trusted"]],
  [{ command: "nice", args: ["gunicorn", "app:api"] }, ["nice gunicorn app:api", "environment", "trusted"]],
  [
    { command: "prlimit", args: ["--nofile=9:9", "python3"] },
    ["prlimit --nofile=9:9 python3", "environment", "trusted"],
  ],
  [
    { command: "setpriv", args: ["--reuid", "1", "--clear-groups", "gunicorn", "a:b"] },
    ["setpriv --reuid 1 --clear-groups gunicorn a:b", "environment", "trusted"],
  ],
  [
    { command: "numactl", args: ["-N", "0", "--localalloc", "nice", "python3", "x.py"] },
    ["numactl -N 0 --localalloc nice python3 x.py", "environment", "trusted"],
  ],
  [{ command: "shelltool", args: ["python3"] }, ["shelltool python3", "none", "trusted"]],
  [{ command: "ionice", args: ["-tc", "2", "python3"] }, ["ionice -tc 2 python3", "environment", "trusted"]],
  [{ command: "sh", args: ["-c", "python3 x.py"] }, ["sh -c python3 x.py", "none", "trusted"]],
  [{ command: "uv", args: ["run", "x.py"] }, ["uv run x.py", "environment", "trusted"]],
  [{ command: "uv", args: ["sync"] }, ["uv sync", "none", "trusted"]],
  [{ cwd: "proj", command: "gunicorn", args: ["app:api"] }, ["gunicorn app:api", "environment", "trusted"]],
  // what is run once
  [{ isOnce: true, code: "1" }, ["python3 -c 1", "environment", "strict"]],
  [{ isOnce: true, code: "1", cwd: "proj" }, [`${VENV} -c 1`, "environment", "strict"]],
  [
    { isOnce: true, code: "1", cwd: "proj", interpreter: "python3.12 -u" },
    ["python3.12 -u -c 1", "environment", "strict"],
  ],
  [{ isOnce: true, script: "-", args: ["a"] }, ["python3 - a", "environment", "strict"]],
  [{ isOnce: true, script: "-", cwd: "proj" }, [`${VENV} -`, "environment", "strict"]],
  [{ isOnce: true, script: "x.py" }, ["python3 x.py", "environment", "strict"]],
  [{ isOnce: true, script: "tool" }, ["/bin/sh tool", "none", "strict"]],
  [{ isOnce: true, command: "python3", args: ["x.py"] }, ["python3 x.py", "environment", "trusted"]],
  // the user's default is for Python, and for what is run once; what is named is named
  [{ script: "x.py", default_policy: "read-only" }, ["python3 x.py", "environment", "read-only"]],
  [{ script: "x.py", policy: "auto", default_policy: "read-only" }, ["python3 x.py", "environment", "read-only"]],
  [{ script: "x.py", policy: "trusted", default_policy: "read-only" }, ["python3 x.py", "environment", "trusted"]],
  [{ script: "x.sh", default_policy: "read-only" }, ["sh x.sh", "none", "trusted"]],
  [{ isOnce: true, command: "true", default_policy: "read-only" }, ["true", "none", "read-only"]],
];

function launchOf({ isOnce = false, path = BIN, cwd = "plain", ...wanted }: Wanted) {
  const app: Launchable & Governed = {
    ...{ script: null, command: null, code: null, args: [], interpreter: null, env: {}, env_file: null, policy: null },
    ...wanted,
    cwd: join(dir, cwd),
  };
  const base = { PATH: path, HOME: "/home/u", LANG: "C" };
  const running = decideLaunch(app, base, isOnce);
  const launch = resolveLaunch(running, app, base, { IPCCTL_NAME: "w" });
  return { launch, running, policy: policyOf(app, running, { project: app.cwd, home: "/" }, isOnce) };
}

test.each(CASES)("%j runs as %j", (wanted, [argv, boot, policy]) => {
  const { launch, running, policy: found } = launchOf(wanted);
  // Without a PATH it is the one of the system.
  const typed =
    launch.env.PATH === undefined ? launch.argv.join(" ").replace(/^\/(usr\/)?bin\//, "") : launch.argv.join(" ");
  const words = typed.replaceAll(`env PYTHONPATH=${PYTHON_BOOT}`, "BOOT");
  expect({ argv: words, boot: running.boot, policy: found }).toEqual({ argv, boot, policy });
  expect(launch.env.PYTHONPATH).toBe(boot === "environment" ? PYTHON_BOOT : undefined);
  expect(launch.env.IPCCTL_NAME).toBe("w");
  expect(Bun.file(join(dir, "was-run")).size).toBe(0);
});

test("what `env` would do to the environment is done to it; what is ours stays", () => {
  const { env, cwd } = launchOf({ script: "x", interpreter: "env -i -C / A=1 B= PYTHONPATH=/p python3" }).launch;
  expect({ env, cwd }).toEqual({
    env: { A: "1", B: "", PYTHONPATH: `${PYTHON_BOOT}:/p`, PYTHONUNBUFFERED: "1", IPCCTL_NAME: "w" },
    cwd: "/",
  });
  const kept = launchOf({ script: "x", interpreter: "env -u LANG -u PYTHONUNBUFFERED IPCCTL_NAME=x python3" }).launch
    .env;
  expect(kept).toEqual({ PATH: BIN, HOME: "/home/u", PYTHONPATH: PYTHON_BOOT, IPCCTL_NAME: "w" });
});

test("where `env` leaves no PATH a program is looked for where the C library does", () => {
  for (const interpreter of ["env -i sh", "env -u PATH sh", "env - A=1 nohup env -u A sh"])
    expect(launchOf({ script: "x", interpreter }).launch.argv[0]).toMatch(/^\/(usr\/)?bin\/(sh|nohup)$/);
  expect(launchOf({ script: "x", interpreter: "env PATH=/none sh" }).launch.argv[0]).toBe("sh");
});

test("a command is looked for in the venv beside it first, unless its definition says where", () => {
  const { env } = launchOf({ cwd: "proj", command: "gunicorn", args: ["a:b"] }).launch;
  expect([env.PATH, env.VIRTUAL_ENV]).toEqual([`${join(dir, "proj/.venv/bin")}:${BIN}`, join(dir, "proj/.venv")]);
  const own = launchOf({ cwd: "proj", command: "gunicorn", args: ["a:b"], env: { PATH: BIN } }).launch.env;
  expect([own.PATH, own.VIRTUAL_ENV]).toEqual([BIN, undefined]);
});

test("where nothing else may be executed, the `#!` line of a program is written out, and what a project names is not run to ask it", () => {
  const { running } = launchOf({ cwd: "proj", command: "gunicorn", args: ["app:api"] });
  expect(running.explicit?.argv).toEqual([VENV, join(dir, "proj/.venv/bin/gunicorn"), "app:api"]);
  expect([running.isChosen, running.explicit?.isChosen]).toEqual([false, false]);
  expect(launchOf({ command: "gunicorn", args: [] }).running.isChosen).toBe(true);
  const moved = launchOf({ cwd: "proj", command: "moved", args: ["a"] }).running.explicit;
  expect(moved?.argv).toEqual([VENV, join(dir, "proj/.venv/bin/moved"), "a"]);
  expect(launchOf({ cwd: "proj", script: "x.py" }).running.isChosen).toBe(false);
  expect(launchOf({ script: "x.py" }).running.isChosen).toBe(true);
});

test("what a `#!` line says of where programs are, and of the environment, is no word of the user's", () => {
  const said = (line: string, more: object = {}): boolean[] => {
    put("plain/said", `#!/usr/bin/env -S ${line}\n`);
    const { isChosen, isTyped } = launchOf({ script: "said", ...more }).running;
    return [isChosen, isTyped];
  };
  expect(said("python3")).toEqual([true, false]);
  expect(said("LD_PRELOAD=/x python3")).toEqual([true, false]);
  expect(said("PATH=/proc/self/cwd python3")).toEqual([false, false]);
  expect(said("-u PATH python3")).toEqual([false, false]);
  expect(said("python3", { interpreter: "env PATH=/x python3" })).toEqual([true, true]);
});
