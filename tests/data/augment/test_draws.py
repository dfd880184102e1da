"""The random numbers of the augmentation: functions of (seed, example, epoch), uniform and drawn apart."""

import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.data.augment import DRAWS, draws
from jaxconv.data.order import permutation

SEEDS = st.integers(0, 2**31 - 1)
EPOCHS = st.integers(0, 10**6)


def test_known_values():
    numbers = draws(2, seed=0, epoch=0)
    assert (numbers[0, :4] * 2**24).tolist() == [5740874, 14557822, 5013379, 14565988]
    assert (numbers[1, 14:16] * 2**24).tolist() == [5306664, 4074830]
    assert DRAWS[:4] == ("rotation", "shear", "rescaling", "zoom_x")
    assert DRAWS[14:] == ("cutout_x", "cutout_y", "noise")


def test_a_new_name_at_the_end_changes_no_number_of_the_others(monkeypatch):
    before = draws(5, 3, 4)
    monkeypatch.setattr(sys.modules[draws.__module__], "DRAWS", (*DRAWS, "more"))
    after = draws(5, 3, 4)
    np.testing.assert_array_equal(after[:, : len(DRAWS)], before)
    assert after.shape == (5, len(DRAWS) + 1)


@given(m=st.integers(0, 60), n=st.integers(0, 60), seed=SEEDS, epoch=EPOCHS)
def test_the_numbers_of_an_example_do_not_depend_on_how_many_there_are(m, n, seed, epoch):
    first, more = draws(m, seed, epoch), draws(m + n, seed, epoch)
    assert more.shape == (m + n, len(DRAWS))
    assert more.dtype == np.float32
    np.testing.assert_array_equal(first, more[:m])


@given(seed=SEEDS, epoch=EPOCHS)
def test_an_alternating_flip_changes_half_every_epoch_and_no_other_number(seed, epoch):
    first, of_epoch, plain = (draws(9, seed, at, alternating_flip=on) for at, on in [(0, 1), (epoch, 1), (epoch, 0)])
    column = DRAWS.index("flip_x")
    assert np.all((of_epoch[:, column] < 0.5) == ((first[:, column] < 0.5) ^ bool(epoch % 2)))
    assert np.all((of_epoch >= 0) & (of_epoch < 1))
    np.testing.assert_array_equal(first, draws(9, seed, 0))
    np.testing.assert_array_equal(np.delete(of_epoch, column, axis=1), np.delete(plain, column, axis=1))


@given(a=st.tuples(SEEDS, EPOCHS), b=st.tuples(SEEDS, EPOCHS))
def test_seeds_and_epochs_differ(a, b):
    assert np.array_equal(draws(4, *a), draws(4, *b)) == (a == b)


def test_epochs_seeds_and_examples_are_drawn_apart():
    columns = np.concatenate([draws(1000, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]], axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(columns.shape[1])).max() < 0.15
    assert np.all((columns >= 0) & (columns < 1))
    np.testing.assert_allclose(columns.mean(0), 0.5, atol=0.05)


def test_the_order_tells_nothing_of_the_numbers():
    places = np.argsort(permutation(1000, 0, 0))
    for column in draws(1000, 0, 0).T:
        assert abs(np.corrcoef(places, column)[0, 1]) < 0.15


def test_uniform():
    for column in draws(20_000, 0, 0).T:
        assert 0 <= column.min() < 0.001
        assert 0.999 < column.max() < 1
        counts, _ = np.histogram(column, bins=20, range=(0, 1))
        np.testing.assert_allclose(counts, 1000, rtol=0.2)


def test_the_largest_word_is_below_one(monkeypatch):
    module = sys.modules[draws.__module__]  # The function hides its module of the same name.
    monkeypatch.setattr(module, "random_words", lambda count, *_: np.full(count, 2**64 - 1, np.uint64))
    assert draws(1, 0, 0).max() == 1 - 2**-24
