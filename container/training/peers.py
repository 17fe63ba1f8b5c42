"""Before several processes train together: how they find each other, as variables and as names that resolve."""

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

from cores import available_cores
from training.environment import Environment

logger = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 15.0


def efa_devices(devices: Path = Path("/dev")) -> int:
    """How many network devices there are that NCCL can reach past the kernel. The instance's name would not tell:
    every list of names has been out of date."""
    return sum(1 for _ in devices.glob("infiniband/uverbs*"))


def variables(environment: Environment, devices: Path = Path("/dev")) -> dict[str, str]:
    """What NCCL, gloo and OpenMP are told; a job that sets one of these variables itself is right."""
    found = {}
    if environment.processes_per_host > 1:
        # Without it every process of the host would start as many threads as there are cores.
        found["OMP_NUM_THREADS"] = str(max(1, available_cores() // environment.processes_per_host))
    if len(environment.hosts) == 1:
        return found | {"GLOO_SOCKET_IFNAME": "lo"}  # works without a network, too
    # SageMaker's hosts may all call themselves the same, and NCCL would take them for one.
    found["NCCL_HOSTID"] = environment.current_host
    if efa_devices(devices):
        found["FI_PROVIDER"] = "efa"
    interface = str(environment.resources.get("network_interface_name"))
    if interface in [name for _, name in socket.if_nameindex()]:
        found |= {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}
    return found


def wait_for_name(host: str, limit_seconds: float, should_stop: Callable[[], bool]) -> bool:
    """Wait until the name resolves, which may come minutes after the container's start; False when stopped.

    Raises TimeoutError after `limit_seconds`.
    """
    deadline, pause = time.monotonic() + limit_seconds, 0.25
    while not should_stop():
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the name of host {host} did not resolve within {limit_seconds:g} s ({error}): see whether that "
                    "host started, and whether the VPC gives its instances names"
                ) from error
            logger.info("host %s has no address yet: trying again", host)
        else:
            return True
        _pause(min(pause, deadline - time.monotonic()), should_stop)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return False


def _pause(seconds: float, should_stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not should_stop():
        time.sleep(0.05)
