"""Which form of each operation a net uses. All forms of an operation are equal in value and gradient.

- stock: JAX's own operations. They work on every platform and under every transformation of JAX. jvp, hessian and
  grad of grad need them, for the other forms define a reverse-mode gradient and nothing else.
- xla: forms that XLA compiles to fast code for a CPU.
- onednn: convolution, max-pooling and large dense layers by oneDNN; the rest as xla.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

from jaxconv.ops import convolution, dense, dropout, onednn, pooling


class Kernels(NamedTuple):
    """The forms of the operations of a net."""

    convolve: Callable[..., Array]
    max_pool: Callable[..., Array]
    dense: Callable[..., Array]
    dropout: Callable[..., Array]


STOCK = Kernels(convolution.stock, pooling.stock, dense.stock, dropout.stock)
XLA = Kernels(convolution.by_xla, pooling.by_slices, dense.by_xla, dropout.by_few_bits)
ONEDNN = Kernels(convolution.by_onednn, pooling.by_onednn, dense.by_onednn, dropout.by_few_bits)

KERNELS = {"stock": STOCK, "xla": XLA, "onednn": ONEDNN}


def resolve(ops: str, platform: str, recorded: str | None = None) -> str:
    """Resolve config.ops for the platform that a program is built for.

    Args:
        ops: "auto" or a key of `KERNELS`.
        platform: "cpu", "cuda", "rocm", "gpu" or "tpu". On a CPU, JAX must have started.
        recorded: what "auto" meant in earlier starts of the same run. It is kept where it still can be.

    Returns:
        A key of `KERNELS`.
    """
    possible = ["onednn", "xla", "stock"] if platform == "cpu" else ["stock"]
    if "onednn" in possible and not onednn.is_available():
        possible.remove("onednn")
    wanted = recorded if ops == "auto" else ops
    return wanted if wanted in possible else possible[0]
