"""A small HTTP service from the standard library. PORT=0 takes a free port and prints it."""

import http.server
import os


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (
            b"ok\n"
            if self.path == "/healthz"
            else f"hello from instance {os.environ.get('IPCCTL_INSTANCE', '?')}\n".encode()
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Handler)
print(f"listening on {server.server_address[1]}", flush=True)
server.serve_forever()
