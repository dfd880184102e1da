"""The mean over test-time views, against NumPy."""

import functools

import jax
import numpy as np
import optax
import pytest

from jaxconv.models.convnet import ConvNet
from jaxconv.training.state import Sums, create_state
from jaxconv.training.step import eval_step
from jaxconv.training.views import mean_logits


def expected(net, images, views):
    """Each view in NumPy, with its share of the mean."""
    mirrored = images[..., ::-1, :]
    if views == "mirror":
        return (net(images) + net(mirrored)) / 2
    edges = [(0, 0)] * (images.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    padded = np.pad(images, edges, mode="reflect")
    shifted = [padded[..., :-2, :-2, :], padded[..., 2:, 2:, :]]
    shifted += [of[..., ::-1, :] for of in shifted]
    return (net(images) + net(mirrored)) / 4 + sum(map(net, shifted)) / 8


@pytest.mark.parametrize("views", ["mirror", "mirror_and_shifts"])
@pytest.mark.parametrize("shape", [(6, 8, 2), (3, 6, 8, 2)], ids=["image", "clip"])
def test_the_logits_are_the_mean_over_the_views(shape, views):
    rng = np.random.default_rng(0)
    images, label = rng.normal(size=(5, *shape)).astype(np.float32), rng.integers(0, 5, 5).astype(np.int32)
    batch = {"image": images, "label": label, "weight": np.full(5, 0.2, np.float32)}
    state = create_state(ConvNet(5, filters=((3,),)), optax.sgd(0.1), shape, seed=0)
    net = functools.partial(state.apply_fn, state.variables, train=False)
    sums, probabilities = jax.jit(functools.partial(eval_step, views=views))(state, batch, Sums.zero())
    logits = expected(net, images, views)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=1e-5)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    np.testing.assert_allclose(sums.loss, losses.sum(), rtol=1e-5)
    assert not np.allclose(probabilities, jax.nn.softmax(net(images)), rtol=1e-3)


def test_without_views_the_net_is_applied_once_to_the_images_themselves():
    seen = []
    images = np.ones((2, 4, 4, 1), np.float32)
    assert mean_logits(lambda of: seen.append(of) or of, images, "none") is images
    assert seen == [images]
