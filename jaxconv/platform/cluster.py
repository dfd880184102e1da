"""Which of the processes of a run this one is: by flags, under SLURM, under Open MPI, or on a TPU slice.

It asks the environment alone, so that JAX need not have started.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import random
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

from jaxconv.errors import ConfigError

_WORKER, _PARENT = "JAXCONV_WORKER", "JAXCONV_PARENT"
_TPU_PORT = 8476
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"


class Place(NamedTuple):
    """The place of a process among those of its run."""

    coordinator: str
    """HOST:PORT, where process 0 listens."""
    num_processes: int
    process_id: int


def worker(place: Place) -> dict[str, str]:
    """Return what the environment of a worker holds. `place` has the address at which the workers meet."""
    host, _ = host_and_port(place)
    return {_WORKER: json.dumps(place), "no_grpc_proxy": host}  # gRPC would look for the host behind an HTTP proxy


def own_place() -> Place | None:
    """Return the place of this process if it is a worker, which a supervisor started."""
    return Place(*json.loads(os.environ[_WORKER])) if _WORKER in os.environ else None


def is_lead() -> bool:
    """Return whether this process decides and writes: the only one of a run does, or else process 0."""
    place = own_place()
    return place is None or place.process_id == 0


def child() -> dict[str, str]:
    """Return what the environment of a child of this process holds, to end with it; see `end_with_parent`."""
    return {_PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Let the system kill this process when its parent dies, if that one asks for it by `child` (Linux)."""
    if _PARENT in os.environ and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != int(os.environ[_PARENT]):  # it is dead already
            os._exit(1)


def host_and_port(place: Place) -> tuple[str, int]:
    """Split the coordinator of a place. An IPv6 address loses its brackets."""
    host, _, port = place.coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def free_port() -> int:
    """Return a port that is free, below those that systems hand out, so that it stays so until it is used."""
    while True:
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("", random.SystemRandom().randrange(20_000, 30_000)))
            return one.getsockname()[1]


def find(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Place | None:
    """Find the place of this process. What is None is taken from SLURM, Open MPI or Cloud TPU, if one of them is there.

    Returns:
        The place; None for the only process of a run.

    Raises:
        ConfigError: something is missing, or wrong.
    """
    found: _Found = (None, None, None)
    if None in (coordinator, num_processes, process_id):
        # Open MPI first: its mpirun may start processes by srun, which knows less of them.
        found = _open_mpi(environment) or _slurm(environment) or _tpu(environment) or found
    coordinator = found[0] if coordinator is None else coordinator
    num_processes = found[1] if num_processes is None else num_processes
    process_id = found[2] if process_id is None else process_id
    if num_processes == 1 or (coordinator is None and num_processes is None and process_id is None):
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            "Several processes need --coordinator=HOST:PORT, --num_processes=N and --process_id=I, in the command of "
            "each; SLURM, Open MPI or Cloud TPU did not say all of them."
        )
    if num_processes < 1:
        raise ConfigError(f"--num_processes={num_processes} must be 1 or more.")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id={process_id} must be from 0 to {num_processes - 1}, the last of them.")
    match = re.fullmatch(r"(.+):(\d+)", coordinator)
    if not match or not 0 < int(match[2]) < 65536:
        raise ConfigError(f"--coordinator={coordinator} must be HOST:PORT, such as node1:1234.")
    return Place(coordinator, num_processes, process_id)


_Found = tuple[str | None, int | None, int | None]


def _slurm(environment: Mapping[str, str]) -> _Found | None:
    """Find the place of a task of srun."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if not all(name in environment for name in names):
        return None
    job, step, nodes, tasks, process_id = (environment[name] for name in names)
    # The first host: node001 of node001,other and of node[001-015,020],other, and r1n2 of r[1-2]n[2-4].
    host = re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", nodes).split(",")[0]
    return f"{host}:{_port_of_job(int(job) + int(step))}", int(tasks), int(process_id)


def _open_mpi(environment: Mapping[str, str]) -> _Found | None:
    """Find the place of a process of mpirun. Where process 0 is, only some versions say."""
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    size, local_size, rank = (
        int(environment.get(f"OMPI_COMM_WORLD_{name}", "0")) for name in ("SIZE", "LOCAL_SIZE", "RANK")
    )
    # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911 or 1314521088.0;tcp6://[fe80::b9b,2620:10d::2]:43370
    launcher = re.match(r"(\d+)\.\d+;tcp(?:6://\[([^,\]]+)|://([^,:]+))", environment.get("OMPI_MCA_orte_hnp_uri", ""))
    coordinator = None
    if launcher:
        host = f"[{launcher[2]}]" if launcher[2] else launcher[3]
        coordinator = f"{host}:{_port_of_job(int(launcher[1]) >> 12)}"  # the low bits of an id are 0
    elif size == local_size:
        name = environment.get("PMIX_NAMESPACE", "")
        coordinator = f"localhost:{_port_of_job(sum(name.encode()))}"
    return coordinator, size, rank


def _tpu(environment: Mapping[str, str]) -> _Found | None:
    """Find the place of a host of a TPU slice, which the environment says, or Google's metadata server."""
    if "TPU_WORKER_HOSTNAMES" in environment and "TPU_WORKER_ID" in environment:
        hosts, process_id = environment["TPU_WORKER_HOSTNAMES"].split(","), int(environment["TPU_WORKER_ID"])
    elif _has_tpu() and "TPU_SKIP_MDS_QUERY" not in environment:
        try:
            endpoints, number = (_metadata(key) for key in ("worker-network-endpoints", "agent-worker-number"))
        except OSError:  # no machine of Google's
            return None
        hosts, process_id = [worker.split(":")[-1] for worker in endpoints.split(",")], int(number)
    else:
        return None
    return f"{hosts[0]}:{_TPU_PORT}", len(hosts), process_id


def _has_tpu() -> bool:
    """Return whether there may be a TPU: those since v5e are devices of VFIO, as others may be."""
    return any(any(pathlib.Path("/dev").glob(devices)) for devices in ("accel*", "vfio/[0-9]*"))


def _metadata(key: str) -> str:
    url = _METADATA.format(os.environ.get("GCE_METADATA_IP", "metadata.google.internal"), key)
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Metadata-Flavor": "Google"}), timeout=5) as reply:
        return reply.read().decode()


def _port_of_job(number: int) -> int:
    """Choose a port above those that systems hand out, the same for all processes of a job."""
    return 61440 + number % 4096
