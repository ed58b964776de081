"""`fetch` over TLS, with certificates that are made for it."""

from __future__ import annotations

import os
import ssl
import subprocess
import tempfile
from typing import Any

from cases import case, equal, expect, main
from sites import ENGINES, Connection, Site, reason, wait

COMMANDS = """
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
openssl req -newkey rsa:2048 -nodes -subj /CN=site -keyout site.key -out site.csr
openssl x509 -req -in site.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out site.pem
"""


@case("fetch over TLS trusts the certificates of SSL_CERT_FILE, or the engine's own, for the name that it asks for")
def trust(js: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/names", "w") as file:
            file.write("subjectAltName=DNS:localhost")
        subprocess.run(["sh", "-e", "-c", COMMANDS], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(f"{folder}/site.pem", f"{folder}/site.key")

        def wrap(one: Any) -> Any:
            return context.wrap_socket(one, server_side=True)

        def hello(asked: Connection) -> None:
            asked.answer("hello")

        with Site({"/": hello}, wrap) as site:
            for engine in ENGINES:
                settings = {"engine": engine, "allow_net": [f"localhost:{site.port}", site.host]}
                os.environ["SSL_CERT_FILE"] = f"{folder}/ca.pem"
                with js.Runtime(**settings) as runtime:
                    equal(wait(runtime, f"fetch('https://localhost:{site.port}').then((r) => r.text())"), "hello")
                    said = reason(runtime, f"fetch('https://{site.host}')")
                    expect(said.startswith("TypeError") and site.host in said, said)
                del os.environ["SSL_CERT_FILE"]
                with js.Runtime(**settings) as runtime:
                    said = reason(runtime, f"fetch('https://localhost:{site.port}')")
                    expect(said.startswith("TypeError") and "localhost" in said and "certificate" in said, said)
                    said = reason(runtime, f"fetch('http://localhost:{site.port}')")
                    expect(said.startswith("TypeError"), said)
            equal({one.path for one in site.seen}, {"/"})
            equal(len(site.seen), len(ENGINES))  # where it is not trusted nothing is asked


if __name__ == "__main__":
    main()
