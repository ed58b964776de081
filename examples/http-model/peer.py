"""The same model as an HTTP server of its own, for comparison: python peer.py [PORT], 0 takes a free one.

Needs: pip install scikit-learn fastapi uvicorn uvloop httptools
"""

import os
import sys

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from iris import classify
from pydantic import BaseModel

app = FastAPI()


class Features(BaseModel):
    rows: list[list[float]]


# async: handing a prediction to a thread takes longer than making it.
@app.post("/predict")
async def predict(features: Features) -> list[dict[str, object]]:
    return classify(features.rows)


@app.exception_handler(ValueError)
async def refuse(_: Request, error: ValueError) -> JSONResponse:
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=422)


if __name__ == "__main__":
    port = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "8000")
    uvicorn.run(app, host="127.0.0.1", port=int(port), loop="uvloop", http="httptools", access_log=False)
