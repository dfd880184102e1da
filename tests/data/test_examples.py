"""What a split must hold, whatever its source."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.data.examples import ALIGNMENT, Examples, aligned, check, from_arrays
from jaxconv.errors import ConfigError


def bytes_of(*shape):
    return np.zeros(shape, np.uint8)


@pytest.mark.parametrize("shape", [(5, 7, 2), (5, 6, 7, 2), (5, 4, 6, 7, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_signals_images_and_clips_of_bytes_or_floats_pass(shape, dtype):
    examples = Examples(np.ones(shape, dtype), np.arange(5, dtype=np.int32))
    checked = check(examples, 5, "train")
    assert checked.labels is examples.labels
    np.testing.assert_array_equal(checked.images, examples.images, strict=True)


@settings(max_examples=20)
@given(
    offset=st.integers(0, 50), shape=st.tuples(*[st.integers(1, 9)] * 3), dtype=st.sampled_from([np.uint8, np.float32])
)
def test_an_aligned_array_is_taken_as_it_is(offset, shape, dtype):
    array = np.arange(math.prod(shape) + offset).astype(dtype)[offset:].reshape(shape)
    found = aligned(array)
    np.testing.assert_array_equal(found, array, strict=True)
    assert found.ctypes.data % ALIGNMENT == 0
    assert aligned(found) is found


@pytest.mark.parametrize(
    ("images", "labels", "part"),
    [
        (np.zeros((5, 8, 8, 3), np.float64), [0, 1, 2, 3, 0], "float64: they must be bytes"),
        (np.zeros((5, 8, 8, 3), np.uint16), [0, 1, 2, 3, 0], "uint16"),
        (bytes_of(5, 8), [0, 1, 2, 3, 0], "shape"),
        (bytes_of(5, 8, 8, 8, 8, 3), [0, 1, 2, 3, 0], "shape"),
        (bytes_of(5, 8, 8, 0), [0, 1, 2, 3, 0], "shape"),
        (bytes_of(5, 8, 8, 3), [0, 1, 2, 4, 0], "label 4"),
        (bytes_of(5, 8, 8, 3), [0, 1, -1, 3, 0], "label -1"),
        (bytes_of(5, 8, 8, 3), [0, 1, 2], "3 labels"),
        (bytes_of(0, 8, 8, 3), [], "no example"),
    ],
)
def test_other_arrays_are_refused(images, labels, part):
    with pytest.raises(ConfigError, match=part):
        check(Examples(images, np.array(labels, np.int32)), 4, "train of 'mine'")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_example_that_is_not_finite_is_named(value):
    images = np.zeros((9, 5, 2), np.float32)
    images[4, 3, 1] = images[7, 0, 0] = value
    with pytest.raises(ConfigError, match=r"'train' holds NaN or infinity in 2 of its 9 examples, first in example 4 "):
        check(Examples(images, np.zeros(9, np.int32)), 4, "'train'")


def test_a_split_of_another_shape():
    train, other = (Examples(bytes_of(3, side, side, 3), np.zeros(3, np.int32)) for side in (8, 4))
    with pytest.raises(ConfigError, match=r"\(4, 4, 3\).*\(8, 8, 3\)"):
        check(other, 4, "test", like=train)


def numbered():
    """A source of 30 and 20 examples whose label tells which one they are."""

    def make(split):
        labels = np.arange(30, dtype=np.int32) if split == "train" else np.arange(30, 50, dtype=np.int32)
        return Examples(np.zeros((len(labels), 2, 1), np.uint8), labels)

    sizes = {"train": 30, "test": 20}
    return from_arrays(
        "mine", version="1", class_names=[str(i) for i in range(50)], image_shape=(2, 1), sizes=sizes, make=make
    )


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train", range(30)),
        ("train[:50%]", range(15)),
        ("train[-3:]", range(27, 30)),
        ("test[5:7]", range(35, 37)),
        ("train[:2]+test[:1]", [0, 1, 30]),
        ("test[:1]+train[:2]", [30, 0, 1]),
    ],
)
def test_parts_of_splits_in_memory(split, numbers):
    assert numbered().load(split).labels.tolist() == list(numbers)


@settings(max_examples=20, deadline=None)
@given(share=st.integers(4, 96))
def test_two_parts_hold_every_example_once(share):
    source = numbered()
    first, second = source.load(f"train[:{share}%]"), source.load(f"train[{share}%:]")
    assert [*first.labels, *second.labels] == list(range(30))


@pytest.mark.parametrize("split", ["nope", "trane[:50%]", "train[:", ""])
def test_an_unknown_split(split):
    for method in (numbered().load, numbered().check_split):
        with pytest.raises(ConfigError, match="is not a split of 'mine': its splits are train, test"):
            method(split)


def test_an_empty_split():
    with pytest.raises(ConfigError, match="holds no example"):
        numbered().load("train[:0]")
