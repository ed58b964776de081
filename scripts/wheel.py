"""What a wheel has besides the Python package: the compiled parts, and what the command line needs to compile a policy.

They are built first where that has not been done, for which npm and a C compiler are needed.
"""

import os
import subprocess
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EXTENSION = "native/build/python/_ipcctl.abi3.so"
#: Those of the installation, by their places in a checkout.
NEEDED = ("bin/ipcctl", "package.json", "policies", "native/build/ipcctl-shim", "build/js/main.js", "build/js/cli.js")
WHERE_MADE = ("build/js/engine.js", "build/js/engine.node.js", "native/build/plane.node")


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
        places = [*NEEDED, *(path for path in WHERE_MADE if os.path.exists(at(path)))]
        places += [f"{path}.jsc" for path in places if os.path.exists(at(f"{path}.jsc"))]
        include = {at(path): f"ipcctl/_installation/{path}" for path in places}
        build_data["force_include"] = {**include, at(EXTENSION): f"ipcctl/{os.path.basename(EXTENSION)}"}
        build_data["pure_python"] = False
        # The extension has the stable interface of the oldest Python that is required.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
