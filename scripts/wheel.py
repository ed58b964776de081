"""What a wheel has besides the Python package: the compiled parts, and what the command line needs to compile a policy.

They are built first where that has not been done, for which npm and a C compiler are needed.
"""

import glob
import os
import subprocess
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EXTENSION = "native/build/python/_ipcctl.abi3.so"
#: Those of the installation, by their places in a checkout.
NEEDED = ("bin/ipcctl", "package.json", "policies", "native/build/ipcctl-shim", "build/js/main.js", "build/js/cli.js")
#: Likewise, as far as they were made: what Node needs, and compiled code.
MORE = ("build/js/engine*.js", "build/js/*.jsc", "native/build/plane.node")
#: Of a daemon and its helpers, which no wheel has.
LEFT_OUT = ("daemon", "router", "plugin")


class Hook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        def at(path: str) -> str:
            return os.path.join(self.root, path)

        try:
            subprocess.run(["sh", "scripts/setup.sh"], cwd=self.root, check=True)  # skips what is done
        except (OSError, subprocess.CalledProcessError) as error:
            why = "the compiled parts could not be built, for which npm and a C compiler are needed"
            raise RuntimeError(f"ipcctl: {why}; see: sh scripts/setup.sh") from error
        if version == "editable":
            return  # it finds the checkout
        more = (path for pattern in MORE for path in glob.glob(pattern, root_dir=self.root))
        places = {*NEEDED, *(path for path in more if not os.path.basename(path).startswith(LEFT_OUT))}
        include = {at(path): f"ipcctl/_installation/{path}" for path in sorted(places)}
        build_data["force_include"] = {**include, at(EXTENSION): f"ipcctl/{os.path.basename(EXTENSION)}"}
        build_data["pure_python"] = False
        # The extension has the stable interface of the oldest Python that is required.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
