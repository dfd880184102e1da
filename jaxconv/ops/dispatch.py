"""Which form of each operation a net uses. All forms of an operation are equal in value and gradient.

- stock: JAX's own operations. They work on every platform and under every transformation of JAX. jvp, hessian and
  grad of grad need them, for the other forms define a reverse-mode gradient and nothing else.
- xla: forms that XLA compiles to fast code for a CPU; average-pooling as stock.
- onednn: convolution, pooling and large dense layers by oneDNN; the rest as xla.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

from jaxconv.ops import convolution, dense, dropout, onednn, pooling


class Kernels(NamedTuple):
    """The forms of the operations of a net."""

    convolve: Callable[..., Array]
    max_pool: Callable[..., Array]
    average_pool: Callable[..., Array]
    dense: Callable[..., Array]
    dropout: Callable[..., Array]


STOCK = Kernels(
    convolve=convolution.stock,
    max_pool=pooling.max_pool_stock,
    average_pool=pooling.average_pool_stock,
    dense=dense.stock,
    dropout=dropout.stock,
)
XLA = Kernels(
    convolve=convolution.by_xla,
    max_pool=pooling.max_pool_by_slices,
    average_pool=pooling.average_pool_stock,
    dense=dense.by_xla,
    dropout=dropout.by_few_bits,
)
ONEDNN = Kernels(
    convolve=convolution.by_onednn,
    max_pool=pooling.max_pool_by_onednn,
    average_pool=pooling.average_pool_by_onednn,
    dense=dense.by_onednn,
    dropout=dropout.by_few_bits,
)

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
