"""The GPU beside what torch was built for."""

import pytest

from surface_normals.device import has_kernels

CUDA_12 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((7, 5), CUDA_12, True),
        ((8, 9), CUDA_12, True),  # an L4 runs what was made for an A10G
        ((10, 3), CUDA_12, True),
        ((7, 0), ("sm_75", "sm_80"), False),  # a V100, and CUDA 13
        ((8, 0), ("sm_86",), False),
        ((13, 0), CUDA_12, False),
        ((13, 0), (*CUDA_12, "compute_120"), True),  # its driver translates
        ((7, 0), ("compute_75",), False),
        ((9, 0), ("sm_90a",), True),
        ((10, 3), ("sm_100a",), False),
        ((10, 3), ("sm_100f",), True),
        ((9, 0), (), False),
    ],
)
def test_a_gpu_runs_kernels_of_its_generation_and_no_newer_ones(capability, built_for, runs):
    assert has_kernels(capability, built_for) == runs
