#!/usr/bin/env python3
"""How fast serving is, beside what is possible and beside LitServe: `make bench-serving`.

The work: a 320x240 JPEG to a normal map of float32. The limit is the same decode, predict, encode in
a loop without a server, with the best batch and threads. All of it interleaved in one run on this
machine, medians of the rounds; whatever is not being measured is stopped. Writes .bench/serving.md,
serving.png and serving.json.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "container"))

from cores import available_cores  # noqa: E402
from serving_benchmark import workload  # noqa: E402
from serving_benchmark.in_process import InProcess, Way  # noqa: E402
from serving_benchmark.load import closed_loop  # noqa: E402
from serving_benchmark.results import Results  # noqa: E402
from serving_benchmark.servers import Kind, Server, litserve, ours, plain_flask  # noqa: E402

LITSERVE = "litserve==0.2.19"
ENGINES = ("eager", "onnx")
ROUNDED = "bfloat16"
"""Measured too where the processor computes in it; its answers are others, so it is beside nobody."""
BATCHES = (1, 2, 4, 8)
CONNECTIONS = (1, 8, 32)
NULL_CONNECTIONS = 8
PARITY_DEGREES, ROUNDED_DEGREES = 0.1, 0.3


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, leave)
    output: Path = arguments.output_dir
    output.mkdir(parents=True, exist_ok=True)
    results = Results(cores=available_cores(), rounds=arguments.rounds, seconds=arguments.seconds)
    litserve_python = None if arguments.without_litserve else python_with_litserve(output)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload.make_model(folder / "model", arguments.size)
        workload.make_null_model(folder / "nothing")
        body = workload.picture()
        kinds, null_kinds = contenders(folder, results.cores, litserve_python, arguments.workers)
        servers: list[Server] = []
        limit = InProcess(folder / "model")
        try:
            servers = measure_starts(kinds, body, folder, results)
            check_answers(servers)
            engines = (*ENGINES, *([ROUNDED] if has_bfloat16() else []))
            ways = {engine: best_ways(limit, engine, results) for engine in engines}
            for number in range(arguments.rounds):
                say(f"round {number + 1}")
                measure_work(servers, limit, ways, results)
            for server in servers:
                results.add(server.kind.name, "memory_megabytes", server.pss_megabytes())
                server.stop()
            servers = [start(kind, body, folder) for kind in null_kinds]
            for _ in range(arguments.rounds):
                measure_overhead(servers, results)
        finally:
            limit.stop()
            for server in servers:
                server.stop()
    results.write(output)
    print((output / "serving.md").read_text())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are taken (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (5)")
    parser.add_argument("--size", default="S", help="the network: tiny, S, M or L (S)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[], help="also ours with so many workers, as on a large GPU"
    )
    parser.add_argument("--without-litserve", action="store_true", help="do not install it, leave it out")
    parser.add_argument("--output-dir", type=Path, default=ROOT / ".bench", help="where results go (.bench)")
    return parser.parse_args()


def python_with_litserve(folder: Path) -> Path:
    """A Python that has LitServe before this environment's own packages, which it shares."""
    python = folder / "litserve" / "bin" / "python"
    if not python.exists():
        say(f"installing {LITSERVE} in {folder / 'litserve'}")
        subprocess.run([sys.executable, "-m", "venv", folder / "litserve"], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", LITSERVE]
        subprocess.run(install, check=True)
        (own,) = (folder / "litserve" / "lib").glob("python*/site-packages")
        shared = next(path for path in sys.path if path.endswith("site-packages"))
        (own / "shared.pth").write_text(shared + "\n")
    return python


def contenders(
    folder: Path, cores: int, litserve_python: Path | None, workers: list[int]
) -> tuple[list[Kind], list[Kind]]:
    """The servers with the model, and those with none."""
    kinds, null_kinds = [], [ours("ours", folder / "nothing", package="null_model"), plain_flask()]
    settings = {"OMP_NUM_THREADS": str(cores), "OMP_WAIT_POLICY": "PASSIVE"}
    for engine in ENGINES:
        kinds.append(ours(f"ours, {engine}", folder / "model", ENGINE=engine))
        for number in workers:
            more = {"ENGINE": engine, "SAGEMAKER_MODEL_SERVER_WORKERS": str(number)}
            kinds.append(ours(f"ours x{number}, {engine}", folder / "model", **more))
        if litserve_python:
            kinds.append(
                litserve(f"LitServe, {engine}", litserve_python, folder / "model", ENGINE=engine, **settings)
            )
    if has_bfloat16():
        kinds.append(ours(f"ours, {ROUNDED}", folder / "model", ENGINE=ROUNDED))
    if litserve_python:
        null_kinds.append(
            litserve("LitServe", litserve_python, folder / "nothing", ENGINE="null", **settings)
        )
    return kinds, null_kinds


def has_bfloat16() -> bool:
    """Whether the processor computes in it."""
    return bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))


def start(kind: Kind, body: bytes, folder: Path) -> Server:
    """The server, ready and paused."""
    server = Server(kind, body, folder)
    server.pause()
    return server


def measure_starts(kinds: list[Kind], body: bytes, folder: Path, results: Results) -> list[Server]:
    """Start each as often as there are rounds; the last ones stay."""
    servers: list[Server] = []
    try:
        for number in range(results.rounds):
            say(f"starting the servers, {number + 1}")
            for server in servers:
                server.stop()
            servers = []
            for kind in kinds:
                servers.append(start(kind, body, folder))
                results.add(kind.name, "first_200_seconds", servers[-1].first_200_seconds)
                results.add(kind.name, "first_answer_seconds", servers[-1].first_answer_seconds)
    except BaseException:
        for server in servers:
            server.stop()
        raise
    return servers


def check_answers(servers: list[Server]) -> None:
    """Raises ValueError when a server's answer is another one."""
    first, *others = ((server.kind.name, workload.normals_of(server.answer)) for server in servers)
    for name, normals in others:
        difference = workload.mean_angle_degrees(first[1], normals)
        if difference > (ROUNDED_DEGREES if ROUNDED in name else PARITY_DEGREES):
            raise ValueError(f"the normals of {name} are {difference:.3f} degrees from those of {first[0]}")


def best_ways(limit: InProcess, engine: str, results: Results) -> tuple[Way, Way]:
    """The fastest with one picture at a time, and the fastest of all."""
    ways = [Way(engine, threads, batch) for threads in range(1, results.cores + 1) for batch in BATCHES]
    say(f"looking for the best batch and threads, {engine}")
    rates = {way: limit.rate(way, results.seconds / 5) for way in ways}
    single = max((way for way in ways if way.batch == 1), key=rates.__getitem__)
    return single, max(ways, key=rates.__getitem__)


def measure_work(
    servers: list[Server], limit: InProcess, ways: dict[str, tuple[Way, Way]], results: Results
) -> None:
    """One round: the limits, then each server with each number of connections."""
    for engine, (single, best) in ways.items():
        results.add(f"limit, {engine}", "single_rate", limit.rate(single, results.seconds))
        results.add(f"limit, {engine}", "rate", limit.rate(best, results.seconds))
        results.note(
            f"limit, {engine}",
            f"{best.threads} threads, batches of {best.batch}; one picture at a time: {single.threads} threads",
        )
    for connections in CONNECTIONS:
        for server in servers:
            server.resume()
            load = closed_loop(
                server.address,
                server.request,
                connections=connections,
                seconds=results.seconds,
                ping=server.ping,
            )
            server.pause()
            name = server.kind.name
            results.add(name, f"rate_{connections}", load.rate)
            results.add(name, f"p50_ms_{connections}", 1000 * load.median_seconds)
            results.add(name, f"p99_ms_{connections}", 1000 * load.percentile(0.99))
            results.add(name, f"ping_ms_{connections}", 1000 * max(load.pings))
            results.count_failures(name, load.failures)


def measure_overhead(servers: list[Server], results: Results) -> None:
    """One round of requests that are no work."""
    for server in servers:
        server.resume()
        before = server.cpu_seconds()
        load = closed_loop(
            server.address, server.request, connections=NULL_CONNECTIONS, seconds=results.seconds
        )
        cpu_seconds = server.cpu_seconds() - before
        server.pause()
        results.add(server.kind.name, "null_rate", load.rate)
        results.add(server.kind.name, "null_cpu_ms", 1000 * cpu_seconds / len(load.latencies))
        results.count_failures(server.kind.name, load.failures)


def leave(number: int, frame: object) -> None:
    """End so that the servers are stopped, which a second signal must not interrupt."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


def say(text: str) -> None:
    """What is being done, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
