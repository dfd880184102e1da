"""Cores and memory within the limits of control groups, in made-up trees of /proc and /sys."""

import os
import types

import psutil
import pytest

from jaxconv.platform import limits


@pytest.fixture
def system(tmp_path):
    """A function that writes files below a root, by their paths, and gives the root."""

    def write(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


@pytest.fixture(autouse=True)
def _a_large_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=10**12))


V2 = {"proc/self/cgroup": "0::/user/job\n"}
V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        (V2, 64),
        (V2 | {"sys/fs/cgroup/user/job/cpu.max": "max 100000"}, 64),
        (V2 | {"sys/fs/cgroup/user/job/cpu.max": "400000 100000"}, 4),
        (V2 | {"sys/fs/cgroup/user/job/cpu.max": "150000 100000"}, 2),
        (V2 | {"sys/fs/cgroup/user/job/cpu.max": "5000 100000"}, 1),
        (V2 | {"sys/fs/cgroup/user/job/cpu.max": "max 100000", "sys/fs/cgroup/user/cpu.max": "300000 100000"}, 3),
        (V2 | {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),  # a container, which sees its group as the root
        (V2 | {"sys/fs/cgroup/other/cpu.max": "100000 100000"}, 64),
        (V1 | {"sys/fs/cgroup/cpu/docker/1f/cpu.cfs_quota_us": "-1"}, 64),
        (
            V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            3,
        ),
    ],
)
def test_cores_respect_quotas(system, files, cores):
    assert limits.cores(system(files)) == cores


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 10**12),
        (V2 | {"sys/fs/cgroup/user/job/memory.max": "max", "sys/fs/cgroup/user/job/memory.current": "5"}, 10**12),
        (
            V2
            | {
                "sys/fs/cgroup/user/job/memory.max": "8000",
                "sys/fs/cgroup/user/job/memory.current": "5000",
                "sys/fs/cgroup/user/job/memory.stat": "anon 1\ninactive_file 1200\nactive_file 7\n",
            },
            4200,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/memory/docker/1f/memory.limit_in_bytes": "8000",
                "sys/fs/cgroup/memory/docker/1f/memory.usage_in_bytes": "9000",
            },
            0,
        ),
    ],
)
def test_free_memory_respects_limits(system, files, free):
    assert limits.free_memory(system(files)) == free


@pytest.mark.parametrize(
    ("count", "text"), [(1_500_000, "0.0015 GB"), (22_640_000_000, "22.6 GB"), (10**13, "10,000 GB")]
)
def test_gigabytes(count, text):
    assert limits.gigabytes(count) == text
