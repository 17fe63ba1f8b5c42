"""LitServe (https://github.com/Lightning-AI/LitServe) around the worked model, batching on: `litserve_server.py PORT`.

Its own Python runs this file, with LitServe's packages before ours. ENGINE: what computes, or `null`
for a model that does nothing.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

MAX_BATCH, BATCH_TIMEOUT_SECONDS = 8, 0.005
ANSWER = "application/x-npy;dtype=float32;axes=rdf;confidence=no"


class Normals(litserve.LitAPI):
    def setup(self, device: str) -> None:
        from surface_normals import predictor

        threads = int(os.environ["OMP_NUM_THREADS"])
        self.model = predictor.load(
            Path(os.environ["MODEL_DIR"]), engine=os.environ["ENGINE"], threads=threads
        )

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Any:
        return self.model.decode(request, "image/jpeg")

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: list[Any]) -> list[Any]:
        return self.model.predict(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> Response:
        return Response(self.model.encode(output, ANSWER), media_type="application/x-npy")


class Nothing(Normals):
    def setup(self, device: str) -> None:
        from null_model import predictor

        self.model = predictor.load(Path())


if __name__ == "__main__":
    kind = Nothing if os.environ["ENGINE"] == "null" else Normals
    server = litserve.LitServer(
        kind(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_SECONDS), accelerator="cpu"
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
