"""Batches as a function of the step: each example once an epoch, the same after any resume."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.config import default_config
from jaxconv.data import augment
from jaxconv.data.examples import Examples
from jaxconv.data.order import permutation
from jaxconv.data.pipeline import (
    ALL_ROWS,
    Normalizer,
    eval_batches,
    fit_normalizer,
    steps_per_epoch,
    train_batches,
)

IDENTITY = Normalizer(np.zeros(2, np.float32), np.ones(2, np.float32))


def numbered(n):
    """Examples whose image and label tell which one they are."""
    images = np.zeros((n, 3, 3, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return Examples(images, np.arange(n, dtype=np.int32))


def seen(batches):
    """The numbers of the examples that are no padding, batch by batch; image and label must agree, and the weights."""
    result = []
    for batch in batches:
        real = batch["weight"] > 0
        np.testing.assert_allclose(batch["weight"], real / real.sum(), rtol=1e-6)
        numbers = batch["image"][real][:, 0, 0] @ [1, 256]
        np.testing.assert_array_equal(numbers, batch["label"][real])
        result.append(batch["label"][real].tolist())
    return result


def training(n, batch_size, start_step, end_step, seed=0):
    return train_batches(
        numbered(n), IDENTITY, batch_size=batch_size, seed=seed, start_step=start_step, end_step=end_step
    )


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 70), batch_size=st.integers(1, 80), seed=st.integers(0, 2**31 - 1))
def test_an_epoch_holds_every_example_once(n, batch_size, seed):
    steps = steps_per_epoch(numbered(n), batch_size)
    batches = seen(training(n, batch_size, 0, 2 * steps, seed))
    for epoch in (batches[:steps], batches[steps:]):
        assert sorted(sum(epoch, [])) == list(range(n))
        assert all(len(batch) == batch_size for batch in epoch[:-1])


@settings(max_examples=15, deadline=None)
@given(data=st.data(), n=st.integers(1, 70), batch_size=st.integers(1, 80))
def test_the_batch_of_a_step_does_not_depend_on_where_the_run_started(data, n, batch_size):
    end = 3 * steps_per_epoch(numbered(n), batch_size)
    start = data.draw(st.integers(0, end))
    assert seen(training(n, batch_size, start, end)) == seen(training(n, batch_size, 0, end))[start:]


@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 70), processes=st.integers(1, 4), share=st.integers(1, 20), rotates=st.booleans())
def test_the_rows_of_all_processes_are_the_batch(n, processes, share, rotates):
    examples, batch_size = numbered(n), processes * share
    augmentation = default_config().augment
    augmentation.rotation = 20.0
    common = {
        "batch_size": batch_size,
        "seed": 3,
        "start_step": 0,
        "end_step": 2 * steps_per_epoch(examples, batch_size),
    }

    def batches(rows):
        yield from train_batches(
            examples, IDENTITY, **common, augmentation=augmentation if rotates else None, rows=rows
        )
        yield from eval_batches(examples, IDENTITY, batch_size=batch_size, rows=rows)

    shares = [batches(slice(i * share, (i + 1) * share)) for i in range(processes)]
    for whole, *of_processes in zip(batches(ALL_ROWS), *shares, strict=True):
        for name, array in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in of_processes]), array)


def test_epochs_and_seeds_differ_in_their_order():
    first, second = seen(training(500, 500, 0, 2))
    (other_seed,) = seen(training(500, 500, 0, 1, seed=1))
    orders = [list(range(500)), first, second, other_seed]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert np.mean(np.array(a) == np.array(b)) < 0.03


def test_the_order_of_an_epoch_is_that_of_the_host():
    batches = seen(training(50, 8, 0, 21, seed=3))
    for epoch in range(3):
        assert sum(batches[7 * epoch : 7 * (epoch + 1)], []) == permutation(50, 3, epoch).tolist()


def test_augmentation_is_not_drawn_from_what_orders_the_examples():
    (batch,) = training(500, 500, 0, 1)
    for column in augment.draws(500, 0, 0)[batch["label"]].T:
        assert abs(np.corrcoef(np.arange(500), column)[0, 1]) < 0.2


def test_no_steps_are_no_batches():
    assert seen(training(10, 4, 3, 3)) == []


def test_a_process_may_end_before_its_batches():
    # The epochs are large and the first batch is early, so that the pipeline is at work when the process ends.
    code = """
import numpy as np
from jaxconv.data import examples, pipeline
n = 1_000_000
examples = examples.Examples(np.zeros((n, 1, 1), np.uint8), np.zeros(n, np.int32))
normalizer = pipeline.Normalizer(np.zeros(1, np.float32), np.ones(1, np.float32))
batches = pipeline.train_batches(examples, normalizer, batch_size=n // 2, seed=0, start_step=1, end_step=99)
next(batches)
"""
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 70), batch_size=st.integers(1, 80))
def test_evaluation_counts_every_example_once_and_in_order(n, batch_size):
    batches = seen(eval_batches(numbered(n), IDENTITY, batch_size=batch_size))
    assert sum(batches, []) == list(range(n))


def test_normalises_by_the_statistics_of_the_split():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 5, 4, 3)).astype(np.uint8)
    images[..., 1] //= 3
    images[..., 2] = 7  # a constant channel must not divide by zero
    examples = Examples(images, np.zeros(50, np.int32))
    normalizer = fit_normalizer(examples)
    np.testing.assert_allclose(normalizer.mean, images.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(normalizer.std[:2], images.std((0, 1, 2))[:2], rtol=1e-6)
    (batch,) = eval_batches(examples, normalizer, batch_size=50)
    assert batch["image"].dtype == np.float32
    np.testing.assert_allclose(batch["image"].mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(batch["image"].std((0, 1, 2)), [1, 1, 0], atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 2), (4, 4, 3), (3, 4, 5, 1)])
def test_any_number_of_spatial_dimensions(shape):
    images = np.random.default_rng(0).integers(0, 256, (7, *shape)).astype(np.uint8)
    examples = Examples(images, np.arange(7, dtype=np.int32))
    (batch,) = eval_batches(examples, fit_normalizer(examples), batch_size=7)
    assert batch["image"].shape == (7, *shape)
