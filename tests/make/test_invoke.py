"""`make invoke-local` against a server that answers as the test wants."""

import http.server
import threading

import pytest


class Server(http.server.ThreadingHTTPServer):
    """Answers each POST with `answer`, (status, body), and remembers what came."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = (200, b"a normal map")
        self.received = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers["Content-Type"], self.headers["Accept"], body))
        status, answer = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a b'c.JPG", "image/jpeg"), ("x.jpeg", "image/jpeg"), ("x.png", "image/png"), ("x.webp", "image/webp")],
)
def test_a_picture_goes_and_its_normal_map_comes(make, server, tmp_path, name, media_type):
    picture = tmp_path / name
    picture.write_bytes(b"a picture")
    ended = make("invoke-local", f"IMAGE_FILE={picture}", f"PORT={server.server_port}")
    output = tmp_path / "local" / f"{picture.stem}-normals.png"

    assert ended.returncode == 0, ended.stderr
    assert server.received == [("/invocations", media_type, "image/png", b"a picture")]
    assert output.read_bytes() == b"a normal map"
    assert str(output) in ended.stdout


def test_the_server_s_own_words_are_shown(make, server, tmp_path):
    picture = tmp_path / "x.jpg"
    picture.write_bytes(b"no picture")
    server.answer = (400, b'{"error": "bad_request", "message": "cut short"}')
    ended = make("invoke-local", f"IMAGE_FILE={picture}", f"PORT={server.server_port}")

    assert_refused(ended, "invoke: the server answers 400: cut short")


def test_nobody_there_is_said_with_the_verb(make, free_port, tmp_path):
    picture = tmp_path / "x.jpg"
    picture.touch()
    ended = make("invoke-local", f"IMAGE_FILE={picture}", f"PORT={free_port}")

    assert_refused(ended, f"invoke: no answer on port {free_port}")
    assert "make serve-local" in ended.stderr


def test_no_picture_a_missing_one_and_one_of_another_kind_are_named(make):
    assert_refused(make("invoke-local"), "make invoke-local IMAGE_FILE=photo.jpg")
    assert_refused(make("invoke-local", "IMAGE_FILE=nowhere.jpg"), "nowhere.jpg cannot be read: No such file")
    assert_refused(make("invoke-local", "IMAGE_FILE=x.gif"), "x.gif is none of .jpg, .jpeg, .png, .webp")


def assert_refused(ended, words):
    ours = [line for line in ended.stderr.splitlines() if not line.startswith("make")]
    assert ended.returncode != 0
    assert len(ours) == 1
    assert words in ours[0]
