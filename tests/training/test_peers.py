"""What several hosts' processes are told to find each other."""

import pytest

from training import peers
from training.environment import read_environment


def told(job, interface, devices, **environ):
    resources = {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"], "network_interface_name": interface}
    job.config("resourceconfig.json", resources)
    environment = read_environment({"SAGEMAKER_BASE_DIR": str(job.root)} | environ)
    return peers.variables(environment, devices)


def test_hosts_have_names_of_their_own_and_an_interface_that_exists(job, tmp_path):
    assert told(job, "lo", tmp_path) == {
        "NCCL_HOSTID": "algo-2",
        "NCCL_SOCKET_IFNAME": "lo",
        "GLOO_SOCKET_IFNAME": "lo",
    }


@pytest.mark.parametrize("interface", ["none77", None])
def test_an_interface_that_is_not_there_is_not_asked_for(job, tmp_path, interface):
    assert told(job, interface, tmp_path) == {"NCCL_HOSTID": "algo-2"}


def test_efa_is_used_where_its_devices_are(job, tmp_path):
    (tmp_path / "infiniband").mkdir()
    assert "FI_PROVIDER" not in told(job, "lo", tmp_path)
    for number in range(4):
        (tmp_path / "infiniband" / f"uverbs{number}").touch()
    assert peers.efa_devices(tmp_path) == 4
    assert told(job, "lo", tmp_path)["FI_PROVIDER"] == "efa"


def test_processes_of_one_host_share_its_cores_and_need_no_network(job, tmp_path):
    environment = read_environment({"SAGEMAKER_BASE_DIR": str(job.root), "PROCESSES_PER_HOST": "1024"})
    assert peers.variables(environment, tmp_path) == {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    assert environment.collective_timeout_seconds == 600
