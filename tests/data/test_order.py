"""The order of an epoch: a permutation of (seed, epoch), the same with every version of NumPy."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.data.order import AUGMENTATION, ORDER, permutation, random_words

SEEDS = st.integers(0, 2**31 - 1)
EPOCHS = st.integers(0, 10**6)


def test_known_values():
    assert permutation(10, seed=0, epoch=0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert random_words(2, 0, 0, ORDER).tolist() == [213000021201967259, 4455796210202625458]
    assert random_words(2, 2**31 - 1, 7, AUGMENTATION).tolist() == [9184776204205231672, 1476528342352039390]


@given(n=st.integers(0, 300), seed=SEEDS, epoch=EPOCHS)
def test_each_example_occurs_once(n, seed, epoch):
    order = permutation(n, seed, epoch)
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, permutation(n, seed, epoch))


@given(m=st.integers(0, 100), n=st.integers(0, 100), seed=SEEDS, epoch=EPOCHS, purpose=st.sampled_from([0, 1]))
def test_more_words_keep_the_first_ones(m, n, seed, epoch, purpose):
    first, more = random_words(m, seed, epoch, purpose), random_words(m + n, seed, epoch, purpose)
    np.testing.assert_array_equal(first, more[:m])


@given(a=st.tuples(SEEDS, EPOCHS), b=st.tuples(SEEDS, EPOCHS))
def test_seeds_epochs_and_purposes_have_streams_of_their_own(a, b):
    keys = {(*key, purpose) for key in (a, b, a[::-1]) for purpose in (ORDER, AUGMENTATION)}
    words = [random_words(20, *key) for key in keys]
    assert len(np.unique(np.concatenate(words))) == 20 * len(keys)


def test_epochs_and_seeds_differ():
    orders = [permutation(500, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert np.mean(a == b) < 0.03


def test_every_example_is_equally_likely_at_every_place():
    n, epochs = 8, 4000
    orders = np.stack([permutation(n, 0, epoch) for epoch in range(epochs)])
    counts = np.stack([np.bincount(place, minlength=n) for place in orders.T])
    np.testing.assert_allclose(counts, epochs / n, rtol=0.25)


@pytest.mark.parametrize("arguments", [(-1, 0), (0, -1), (2**64, 0)])
def test_numbers_that_are_no_words_are_refused(arguments):
    with pytest.raises(OverflowError):
        permutation(3, *arguments)


@pytest.mark.parametrize("module", ["jaxconv.data.order", "jaxconv.data.augment.draws"])
def test_the_import_brings_neither_tensorflow_nor_jax(module):
    code = f"import sys, {module}; print(sorted({{'jax', 'jaxlib', 'tensorflow'}} & sys.modules.keys()))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"
