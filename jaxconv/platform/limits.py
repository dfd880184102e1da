"""What this process may use of the machine: cores and memory, within the limits of its control groups (Linux)."""

import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import psutil

_ROOT = pathlib.Path("/")


def cores(root: pathlib.Path = _ROOT) -> int:
    """Return the number of cores that this process may use: its CPU affinity, or fewer under a quota of CPU time.

    Args:
        root: where /proc and /sys are found; another one in tests.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu", root):
        if (limit := _words(group / "cpu.max")) and limit[0] != "max":
            own = min(own, math.ceil(int(limit[0]) / int(limit[1])))
        quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            own = min(own, math.ceil(int(quota[0]) / int(period[0])))
    return max(1, own)


def free_memory(root: pathlib.Path = _ROOT) -> int:
    """Return the bytes of memory that this process may still allocate. Caches that the system can drop count as free.

    Args:
        root: where /proc and /sys are found; another one in tests.
    """
    free = psutil.virtual_memory().available
    for group in _groups("memory", root):
        for limit_file, used_file, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _words(group / limit_file), _words(group / used_file)
            if limit and used and limit[0] != "max":
                stat = _words(group / "memory.stat")
                given_back = int(stat[stat.index(cache) + 1]) if cache in stat else 0
                free = min(free, int(limit[0]) - int(used[0]) + given_back)
    return max(0, free)


def free_on(mesh: Any) -> int:
    """Return the free bytes of memory of the first device of a jax.sharding.Mesh, those of the machine for a CPU.

    It is practically no limit if an accelerator does not report them.
    """
    if (device := mesh.devices.flat[0]).platform == "cpu":
        return free_memory()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", 1 << 62) - stats.get("bytes_in_use", 0)


def gigabytes(count: int) -> str:
    """Format a number of bytes in gigabytes."""
    return f"{count / 1e9:,.3g} GB" if count < 1e12 else f"{count / 1e9:,.0f} GB"


def _groups(controller: str, root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the directories of this process's control group and of its parents, for version 1 and 2 of cgroups."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = mounts / controller if controllers else mounts
        group = mount / path.lstrip("/")
        yield group
        # A container may see the path of its group on the host, of which only the mount itself is there.
        yield from (parent for parent in group.parents if parent.is_relative_to(mount))


def _words(path: pathlib.Path) -> list[str]:
    """Return the words of a file, or none if it cannot be read."""
    try:
        return path.read_text().split()
    except OSError:
        return []
