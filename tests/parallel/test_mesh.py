"""What does not divide among devices is refused."""

import jax
import pytest

from jaxconv.errors import ConfigError
from jaxconv.parallel.mesh import make_mesh


def test_a_batch_whose_parts_do_not_divide_is_refused():
    count = jax.device_count()
    assert make_mesh(None, 12 * count, 3).size == count
    sentence = f"does not divide among {count} devices x config.accumulate_steps=5: make it a multiple of {5 * count}, "
    with pytest.raises(ConfigError, match=sentence):
        make_mesh(None, 12 * count, 5)
