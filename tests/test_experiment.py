"""What a config arranges on an accelerator, as far as it shows without one."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv import experiment
from tests.conftest import ROOT


def test_a_gpu_gives_the_same_bits_each_time_unless_told_otherwise(tiny):
    gpu, cpu, tpu = (
        SimpleNamespace(devices=np.array([SimpleNamespace(platform=name)])) for name in ("gpu", "cpu", "tpu")
    )
    options = experiment.compiler_options(tiny, gpu)
    assert options == {"xla_gpu_deterministic_ops": True}
    jax.jit(lambda x: x @ x).lower(jnp.ones((2, 2))).compile(options)  # XLA refuses options that it does not know
    assert experiment.compiler_options(tiny, cpu) == experiment.compiler_options(tiny, tpu) == {}
    tiny.deterministic = False
    assert experiment.compiler_options(tiny, gpu) == {}


PROGRAM = """
import sys
import jax, jax.numpy as jnp, optax
from jaxconv import experiment
from jaxconv.config import default_config
from jaxconv.models.registry import create_model
from jaxconv.training.state import create_state
from jaxconv.training.step import make_train_step

config = default_config()
config.model.name, config.matmul_precision = "lenet", sys.argv[1]
experiment.start_jax(config)
state = jax.eval_shape(lambda: create_state(create_model(config.model, 10), optax.sgd(0.1), (28, 28, 1), 0))
shapes = {"image": ((8, 28, 28, 1), jnp.float32), "label": ((8,), jnp.int32), "weight": ((8,), jnp.float32)}
batch = {key: jax.ShapeDtypeStruct(*shape) for key, shape in shapes.items()}
for platform in ("cuda", "tpu"):
    text = jax.jit(make_train_step(config)).trace(state, batch).lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
    assert len(products) >= 10
    print(platform, *{name for line in products for name in ("HIGHEST", "HIGH,", "DEFAULT") if name in line})
"""


@pytest.mark.parametrize(
    ("precision", "wanted"), [("default", "DEFAULT"), ("tensorfloat32", "HIGH,"), ("float32", "HIGHEST")]
)
def test_the_precision_of_products_in_programs_for_accelerators(precision, wanted):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, precision], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cuda {wanted}\ntpu {wanted}\n"
