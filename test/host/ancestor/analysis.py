"""An analysis script of before ipcctl: it asks its backend by a line of JSON on stdout, and reads a line of stdin for
each answer. It knows nothing of what runs it.
"""

import json
import sys


class Backend:
    def __init__(self):
        self.asked = 0

    def call(self, method, **params):
        self.asked += 1
        request_id = f"req_{self.asked}"
        print(json.dumps({"id": request_id, "method": method, "params": params}), flush=True)
        answer = json.loads(sys.stdin.readline())
        if answer["id"] != request_id:
            raise RuntimeError(f"answer {answer['id']} to request {request_id}")
        if answer.get("error"):
            raise RuntimeError(answer["error"])
        return answer["result"]


backend = Backend()
outcomes = []


def attempt(method, **params):
    try:
        outcomes.append(backend.call(method, **params))
    except RuntimeError as error:
        outcomes.append(str(error))
    return outcomes[-1]


print("Analysis begins")
attempt("echo.echo", value=[1, None, {"text": 'ä\n\u2028"\\', "deep": {"keptAsItIs": True}}])
written = attempt("files.write", name="sales.csv", content="month,total\n1,2\n", conversationId="c1")
print(json.dumps({"progress": 0.5}))
attempt("files.list", conversationId="c1")
attempt("files.list", conversationId="c2")
attempt("files.read", id=written["file"]["id"])
attempt("files.read", id="none")
attempt("files.list", conversationId="c1", conversation_id="c2")
attempt("echo.echo")
attempt("none.such")
attempt("memory.list")
attempt("echo.echo", value="x" * 150_000)
print(json.dumps({"outcomes": outcomes}))
