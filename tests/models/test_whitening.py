"""The whitening kernel: what comes out of it is white."""

import jax
import numpy as np
import pytest

from jaxconv.models import whitening
from jaxconv.models.convnet import ConvNet


def images(shape, examples=400):
    """Smooth bytes, whose windows are correlated as those of photographs."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(examples, *shape))
    for axis in range(1, len(shape)):
        noise = np.cumsum(noise, axis=axis)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return (255 * noise).astype(np.uint8)


@pytest.mark.parametrize(("shape", "window"), [((20, 2), 3), ((9, 11, 3), 2), ((5, 6, 7, 1), 2)])
def test_the_outputs_have_variance_one_and_no_correlation(shape, window):
    examples = images(shape)
    axes = tuple(range(examples.ndim - 1))
    mean, std = (f(examples, axis=axes).astype(np.float32) for f in (np.mean, np.std))
    kernel = whitening.fit(examples, mean, std, window)
    filters = 2 * window ** (len(shape) - 1) * shape[-1]
    assert kernel.shape == (*(window,) * (len(shape) - 1), shape[-1], filters)

    net = ConvNet(num_classes=2, whitening=window)
    normalised = (examples - mean) / std
    variables = net.init(jax.random.key(0), normalised[:1], train=False)
    variables = variables | {"whitening": {"Whitening_0": {"kernel": kernel}}}
    _, captured = net.apply(variables, normalised, train=False, capture_intermediates=True)
    outputs = np.asarray(captured["intermediates"]["Whitening_0"]["__call__"][0]).reshape(-1, filters)
    first, second = np.split(outputs, 2, axis=1)
    np.testing.assert_allclose(second, -first, atol=1e-5)
    # A component of variance v comes out with v / (v + 5e-4).
    second_moments = first.T @ first / len(first)
    np.testing.assert_allclose(second_moments - np.diag(np.diag(second_moments)), 0, atol=5e-3)
    assert np.all(np.diag(second_moments) < 1.001)
    assert np.diag(second_moments)[-1] > 0.99  # the component of largest variance


def test_a_constant_channel_is_not_blown_up():
    examples = images((8, 8, 2))
    examples[..., 1] = 7
    kernel = whitening.fit(examples, np.array([128.0, 7.0]), np.array([60.0, 1.0]), 2)
    assert np.isfinite(kernel).all()
    assert np.abs(kernel).max() <= 1 / np.sqrt(5e-4)
