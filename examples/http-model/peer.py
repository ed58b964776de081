"""The same model as a Python HTTP server, for comparison: python peer.py [starlette|fastapi] [PORT]; 0 takes a free
one.

Needs: pip install scikit-learn fastapi uvicorn uvloop httptools
"""

import argparse
import json
import os

import uvicorn
from iris import classify
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def refuse(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=422)


# Both are async: handing a prediction to a thread takes longer than making it.
def by_hand() -> Starlette:
    """Checks as much as app.ts does."""

    async def predict(request: Request) -> JSONResponse:
        try:
            rows = (await request.json())["rows"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            return JSONResponse({"error": 'the body is not {"rows": [[number, …], …]}'}, status_code=400)
        return JSONResponse(classify(rows))

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])], exception_handlers={ValueError: refuse})


def with_schema() -> Starlette:
    """As FastAPI's guide has it."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Features(BaseModel):
        rows: list[list[float]]

    class Prediction(BaseModel):
        label: str
        probability: float

    app = FastAPI(exception_handlers={ValueError: refuse})

    @app.post("/predict", response_model=list[Prediction])
    async def predict(features: Features) -> list[dict[str, object]]:
        return classify(features.rows)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", nargs="?", choices=["starlette", "fastapi"], default="starlette")
    parser.add_argument("port", nargs="?", type=int, default=int(os.environ.get("PORT", "8000")))
    options = parser.parse_args()
    app = by_hand() if options.kind == "starlette" else with_schema()
    uvicorn.run(app, host="127.0.0.1", port=options.port, loop="uvloop", http="httptools", access_log=False)
