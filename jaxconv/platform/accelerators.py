"""Whether JAX may find an accelerator, asked before it starts. To ask JAX would start it, and take a GPU's memory."""

import importlib.metadata
import importlib.util
import os


def may_be_here() -> bool:
    """Return whether JAX may find more than the CPU: a plugin for other devices is installed, and not turned off."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    return bool(importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu"))
