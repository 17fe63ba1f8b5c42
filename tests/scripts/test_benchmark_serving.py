"""The serving benchmark's parts: its client against real servers, and what it makes of the numbers."""

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from serving_benchmark import workload
from serving_benchmark.load import closed_loop, get, post
from serving_benchmark.results import Results
from serving_benchmark.servers import Server, ours

TAKES_SECONDS = 0.05


class Slow(BaseHTTPRequestHandler):
    """Answers after TAKES_SECONDS, every fifth request with 500; its pings at once."""

    protocol_version = "HTTP/1.1"
    lock, served, together, most = threading.Lock(), 0, 0, 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert body == b"picture" * 10_000
        with self.lock:
            Slow.served, Slow.together = Slow.served + 1, Slow.together + 1
            Slow.most, number = max(Slow.most, Slow.together), Slow.served
        time.sleep(TAKES_SECONDS)
        with self.lock:
            Slow.together -= 1
        self.answer(500 if number % 5 == 0 else 200, b"x" * 300_000)

    def do_GET(self):
        self.answer(200, b"")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_the_client_keeps_so_many_requests_on_their_way_and_counts_what_failed():
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        request = post("/", b"picture" * 10_000, "image/jpeg", "localhost")
        load = closed_loop(
            server.server_address, request, connections=4, seconds=0.5, ping=get("/", "localhost")
        )
        server.shutdown()
    assert Slow.most == 4
    assert load.failures == Slow.served // 5
    assert len(load.latencies) == Slow.served - load.failures
    assert min(load.latencies) >= TAKES_SECONDS
    assert load.median_seconds <= load.percentile(0.99) <= max(load.latencies)
    assert load.pings


def test_our_server_is_started_measured_paused_and_stopped(tmp_path):
    workload.make_null_model(tmp_path / "nothing")
    body = b"\xff\xd8\xff a picture"
    server = Server(ours("ours", tmp_path / "nothing", package="null_model"), body, tmp_path)
    try:
        assert server.answer == str(len(body)).encode()
        assert 0 < server.first_200_seconds <= server.first_answer_seconds
        assert server.cpu_seconds() > 0
        assert server.pss_megabytes() > 10
        server.pause()
        server.resume()
        load = closed_loop(server.address, server.request, connections=4, seconds=0.2)
        assert load.failures == 0
        assert len(load.latencies) >= 4
    finally:
        server.stop()
    assert "for 1 workers" in server.log.read_text()


def test_the_table_has_the_medians_and_their_share_of_the_limit(tmp_path):
    results = Results(cores=2, rounds=3, seconds=1)
    for rate in (20.0, 10.0, 11.0):
        results.add("limit, onnx", "rate", rate)
        results.add("limit, onnx", "single_rate", 10.0)
        for n in (1, 8, 32):
            results.add("ours, onnx", f"rate_{n}", rate * 2)
            for figure in ("p50_ms", "p99_ms", "ping_ms"):
                results.add("ours, onnx", f"{figure}_{n}", n)
        for figure in ("first_200_seconds", "first_answer_seconds", "memory_megabytes"):
            results.add("ours, onnx", figure, 3)
        results.add("ours", "null_rate", 1000 * rate)
        results.add("ours", "null_cpu_ms", 0.5)
    results.count_failures("ours, onnx", 0)
    results.write(tmp_path)
    table = (tmp_path / "serving.md").read_text()
    assert "| ours, onnx | 22.0 / 22.0 / 22.0 | 2.00 / 2.00 / 2.00 | 1, 8 | 32 | 3.0, 3.0 | 3 |" in table
    assert "| limit, onnx | 11.0 | | 100 | | | |" in table
    assert "| ours | 11000 | 0.50 |" in table
    assert "failed" not in table
    assert (tmp_path / "serving.png").stat().st_size > 1000
    assert results.median("LitServe", "rate") is None


def test_an_answer_is_judged_by_its_shape_and_its_angle():
    normals = np.zeros((workload.HEIGHT, workload.WIDTH, 3), np.float32)
    normals[..., 2] = -1
    tilted = np.zeros_like(normals)
    tilted[..., 1], tilted[..., 2] = np.sin(np.radians(30)), -np.cos(np.radians(30))
    assert workload.mean_angle_degrees(normals, tilted) == pytest.approx(30, abs=1e-4)
    file = io.BytesIO()
    np.save(file, normals[1:])
    with pytest.raises(ValueError, match=r"float32 \(239, 320, 3\)"):
        workload.normals_of(file.getvalue())
