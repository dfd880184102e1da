"""The names of splits, in the notation of TensorFlow Datasets: "train[:80%]", "train[1000:]" or "train+test"."""

import re
from collections.abc import Mapping, Sequence

from jaxconv.errors import ConfigError

_PART = re.compile(r"([\w-]+)(?:\[([\d\w%:.-]+)\])?")
_BOUND = re.compile(r"(?:(-?[\d_.]+)(%|shard)?)?")


def parts(split: str, known: Mapping[str, Sequence[int]], name: str) -> list[tuple[str, slice]]:
    """Parse the name of a split as TensorFlow Datasets does. Percents are rounded to the nearest example.

    Args:
        split: the name.
        known: the numbers of examples of the files (shards) of each whole split.
        name: the name of the data set in the message of an error.

    Returns:
        The name of a whole split and a slice of its examples, for each part.

    Raises:
        ConfigError: the split is unknown or empty.
    """
    try:
        found = [part for term in re.split(r"\s*\+\s*", split) for part in _parse(term, known)]
    except (ValueError, KeyError):
        raise ConfigError(
            f"{split!r} is not a split of {name!r}: its splits are {', '.join(known)}, "
            "and a part of one is written like 'train[:80%]'."
        ) from None
    if not any(part.stop > part.start for _, part in found):
        raise ConfigError(f"The split {split!r} of {name!r} holds no example: widen it.")
    return found


def _parse(term: str, known: Mapping[str, Sequence[int]]) -> list[tuple[str, slice]]:
    """Parse one term of a sum.

    Raises:
        ValueError: it is malformed, or reaches beyond the split.
        KeyError: there is no such split.
    """
    if (match := _PART.fullmatch(term)) is None:
        raise ValueError(term)
    of, selector = match.groups()
    if of == "all":
        if selector:
            raise ValueError(term)
        return [part for each in known for part in _parse(each, known)]
    shards = known[of]
    start, stop = _bounds(selector, shards) if selector else (0, sum(shards))
    return [(of, slice(*slice(start, stop).indices(sum(shards))))]


def _bounds(selector: str, shards: Sequence[int]) -> tuple[int, int]:
    """Return the bounds of what stands in the brackets, in examples. Those below 0 count from the end."""
    matches = [_BOUND.fullmatch(bound) for bound in selector.split(":")]
    bounds = [match.groups() for match in matches if match]
    if len(bounds) != len(matches) or len(bounds) > 2 or not any(value for value, _ in bounds):
        raise ValueError(selector)
    unit = next((unit for _, unit in bounds if unit), None)
    if len(bounds) == 1:  # one shard, such as "train[0shard]"
        if unit != "shard":
            raise ValueError(selector)
        bounds.append((str(int(bounds[0][0]) + 1), unit))
    (first, _), (last, _) = bounds
    count = sum(shards)
    if unit == "shard":
        end = None if last is None else int(last)
        end = len(shards) + end if end is not None and end <= 0 else end
        start = 0 if first is None else sum(shards[: int(first)])
        stop = count if last is None else sum(shards[:end])
    else:
        start = 0 if first is None else _examples(first, unit, count)
        stop = count if last is None else _examples(last, unit, count)
    if max(abs(start), abs(stop)) > count:
        raise ValueError(selector)
    return start, stop


def _examples(bound: str, unit: str | None, count: int) -> int:
    """Convert a bound in examples or percent to examples."""
    if unit is None:
        return int(bound)
    if abs(percent := float(bound)) > 100:
        raise ValueError(bound)
    return round(percent * count / 100)
