"""What a process arranges before JAX starts: the devices of a CPU, its threads, and compiled programs kept on disk."""

import contextlib
import hashlib
import os
import pathlib
import platform
import warnings
from typing import Any

import jax

from jaxconv.platform import cache, switches
from jaxconv.platform.limits import cores


def share_cores_with_xla() -> None:
    """Give XLA:CPU as many threads as this process may use cores; XLA itself knows of no quota.

    Set PJRT_NPROC to choose another number.
    """
    if switches.is_on("threads"):
        os.environ.setdefault("PJRT_NPROC", str(cores()))


def let_threads_take_turns() -> None:
    """Schedule the threads of this process as a batch (Linux). Call it in a worker of several, before JAX starts.

    A thread of gloo, the collectives of a CPU, spins while it waits. Otherwise it keeps its core from the threads that
    it waits for until the kernel's next tick, which is 4 ms for each message where a process has one core.
    """
    if switches.is_on("threads") and hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # not permitted: slower, and no less right
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def split_cpu(count: int) -> None:
    """Split the CPU into `count` devices. Call it before JAX starts."""
    jax.config.update("jax_num_cpu_devices", count)


def largest_divisor(batch_size: int, most: int) -> int:
    """Return the largest number up to `most` that divides the batch."""
    return max(n for n in range(1, most + 1) if batch_size % n == 0)


def keep_compiled_programs() -> None:
    """Turn JAX's persistent compilation cache on, one for each kind of CPU, whose features programs are compiled for.

    Set JAX_COMPILATION_CACHE_DIR to choose another one, or JAX_ENABLE_COMPILATION_CACHE=false to turn it off.
    """
    directory = cache.directory(f"compiled-{_cpu()}")
    if directory is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # A run killed while it wrote leaves a broken entry. That costs a compilation and no more.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def processor(device: Any) -> str:
    """Name the hardware of a device; for a CPU the model of the processor, since kernels depend on it."""
    if device.platform != "cpu":
        return device.device_kind
    about = _cpu_info()
    if "model name" not in about:
        return platform.processor() or platform.machine()
    return f"{about['model name']} (family {about.get('cpu family')}, model {about.get('model')})"


def cpu_has_bfloat16() -> bool:
    """Return whether the processor is known to have instructions for products of bfloat16."""
    features = _cpu_info().get("flags", "").split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(features)


def _cpu() -> str:
    about = _cpu_info()
    features = (
        about.get("flags") or about.get("Features") or platform.node()
    )  # other systems do not say; then by machine
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:12]


def _cpu_info() -> dict[str, str]:
    """What Linux says of the first core."""
    try:
        first = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
