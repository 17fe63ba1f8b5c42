"""The least that answers a request of the benchmark: Flask in Gunicorn's threads, no model, no queue, no figures."""

from flask import Flask, Response, request

app = Flask("plain")


@app.get("/ping")
def ping() -> str:
    return "ready"


@app.post("/invocations")
def invocations() -> Response:
    return Response(b"%d" % len(request.get_data()), content_type="application/x-npy")
