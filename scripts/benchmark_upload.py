"""`launch.py upload` beside a loop of boto3's `upload_file`: seconds for many small files, and their ratio.

S3's stand-in is moto's server, here in a process of its own. On this machine it answers in milliseconds of
processor time and without a way to go, so each answer also waits --delay-ms, as one of S3's does in a network; with 0
it is the processor alone that is measured, mostly the stand-in's.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVER = """
import sys, time
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
port, delay_seconds = int(sys.argv[1]), float(sys.argv[2])
application = DomainDispatcherApplication(create_backend_app)
def delayed(environ, start_response):
    time.sleep(delay_seconds)
    return application(environ, start_response)
run_simple("127.0.0.1", port, delayed, threaded=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=20, help="of each file (%(default)s)")
    parser.add_argument(
        "--delay-ms", type=float, nargs="+", default=[30, 0], help="before each answer; one round each (30 0)"
    )
    options = parser.parse_args()
    for delay_ms in options.delay_ms:
        print(f"{options.files} files of {options.kilobytes} kB, answers {delay_ms:g} ms late:", flush=True)
        with_server(options, delay_ms)


def with_server(options: argparse.Namespace, delay_ms: float) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-c", SERVER, str(port), str(delay_ms / 1000)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        measure(options, port)
    finally:
        server.terminate()
        server.wait(60)


def measure(options: argparse.Namespace, port: int) -> None:
    import boto3  # after the environment is set

    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / str(number % 10) / f"{number}.jpg" for number in range(options.files)]
        for path in files:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(1000 * options.kilobytes))
        _wait_for(port)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="bucket")
        started = time.monotonic()
        for path in files:
            s3.upload_file(str(path), "bucket", f"loop/{path.name}")
        loop_seconds = time.monotonic() - started
        launch = [sys.executable, str(Path(__file__).with_name("launch.py"))]
        started = time.monotonic()
        subprocess.run([*launch, "upload", place, "s3://bucket/ours"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        started = time.monotonic()
        subprocess.run([*launch, "upload", place, "s3://bucket/ours"], check=True, stdout=subprocess.DEVNULL)
        again_seconds = time.monotonic() - started
    print(f"a loop of upload_file  {loop_seconds:6.1f} s")
    print(f"launch.py upload       {seconds:6.1f} s, {loop_seconds / seconds:.1f} times as fast")
    print(f"the same once more     {again_seconds:6.1f} s, as all is there")


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                sys.exit("the stand-in did not come up")
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    main()
