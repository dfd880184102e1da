"""What a process arranges before JAX starts: the devices of a CPU, and compiled programs kept on disk."""

import hashlib
import os
import pathlib
import platform
import warnings
from typing import Any

import jax
from jax.extend.backend import clear_backends

from jaxconv.config import Config
from jaxconv.models import registry as models
from jaxconv.ops.onednn import library as onednn
from jaxconv.platform import cache
from jaxconv.platform.limits import cores


def prepare(config: Config) -> None:
    """Set JAX up for a run; to be called before its first use."""
    os.environ.setdefault("PJRT_NPROC", str(cores()))  # XLA:CPU itself knows of no quota
    _keep_compiled_programs()
    _set_host_devices(config)


def _set_host_devices(config: Config) -> None:
    """Split the CPU into devices where XLA would leave cores idle: it runs a convolution on one thread of one device.

    As many as config.num_devices, or the largest number of cores that divides the batch; one where oneDNN is there or
    the net has no convolutions, since its kernels and products use all cores by themselves.
    """
    has_convolutions = bool(models.resolve(config.model).filters)

    def split(most: int) -> None:
        devices = config.num_devices or max(n for n in range(1, most + 1) if config.batch_size % n == 0)
        jax.config.update("jax_num_cpu_devices", devices)

    split(cores() if has_convolutions and not onednn.is_installed() else 1)
    if has_convolutions and onednn.is_installed() and jax.default_backend() == "cpu" and not onednn.is_available():
        clear_backends()  # JAX had to start for the question whether oneDNN works
        split(cores())


def _keep_compiled_programs() -> None:
    """Turn JAX's persistent compilation cache on, one for each kind of CPU: programs are compiled for its features."""
    directory = cache.directory(f"compiled-{_cpu()}")
    if directory is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # A run killed while it wrote leaves a broken entry, which costs a compilation and no more.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def processor(device: Any) -> str:
    """What a device is: the processor itself where that is the device, since its kernels depend on it."""
    if device.platform != "cpu":
        return device.device_kind
    about = _cpu_info()
    if "model name" not in about:
        return platform.processor() or platform.machine()
    return f"{about['model name']} (family {about.get('cpu family')}, model {about.get('model')})"


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
