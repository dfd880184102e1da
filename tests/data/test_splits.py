"""The names of splits mean what they mean in TensorFlow Datasets."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxconv.data.splits import parts
from jaxconv.data.tensorflow import import_tfds
from jaxconv.errors import ConfigError

tfds = import_tfds()

PERCENT = st.one_of(st.integers(-120, 120).map(str), st.floats(-101, 101).map(lambda value: f"{value:.3f}"))
BOUND = st.one_of(
    st.just(""),
    st.integers(-130, 130).map(str),
    PERCENT.map(lambda value: f"{value}%"),
    st.integers(-4, 4).map(lambda value: f"{value}shard"),
    st.sampled_from(["-0", "1_0", "1.5", ".", "%", "x", "1e2", "--1", "-"]),
)
SELECTOR = st.one_of(
    st.just(""), BOUND.map("[{}]".format), st.builds("[{}:{}]".format, BOUND, BOUND), st.just("["), st.just("[1:2:3]")
)
TERM = st.builds("{}{}".format, st.sampled_from(["train", "test", "all", "a-b", "nope", ""]), SELECTOR)
SPLIT = st.lists(TERM, min_size=1, max_size=3).flatmap(
    lambda terms: st.sampled_from(["+", " + ", "+ "]).map(lambda plus: plus.join(terms))
)
SHARDS = st.lists(st.integers(0, 60), min_size=1, max_size=3).filter(sum)


def of_tfds(split, known):
    """The parts that TFDS reads; None where it refuses the split."""
    infos = {name: tfds.core.SplitInfo(name=name, shard_lengths=shards, num_bytes=0) for name, shards in known.items()}
    try:
        found = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (AssertionError, ValueError, KeyError, NotImplementedError):
        return None
    return [
        (part.splitname, slice(*slice(part.from_, part.to).indices(infos[part.splitname].num_examples)))
        for part in found
    ]


@settings(max_examples=500, deadline=None)
@given(split=SPLIT, train=SHARDS, test=SHARDS)
@example("train[:80%]", [210], [55])
@example("train[80%:]+test[-3:]", [210], [55])
@example("train[0.5%:2.5%]", [100], [1])  # ties are rounded to even
@example("train[-1shard:]+all", [30, 20], [5])
def test_a_split_is_that_of_tfds(split, train, test):
    known = {"train": train, "test": test, "a-b": [7]}
    expected = of_tfds(split, known)
    if expected is None:
        with pytest.raises(ConfigError, match="is not a split of 'mine': its splits are train, test, a-b, and a part"):
            parts(split, known, "mine")
    elif not any(part.stop > part.start for _, part in expected):
        with pytest.raises(ConfigError, match="holds no example: widen it"):
            parts(split, known, "mine")
    else:
        assert parts(split, known, "mine") == expected
