"""Phases of a run: epochs whose steps are one program. A phase leaves out what does not change the parameters then."""

from typing import NamedTuple

from jaxconv.config import Config


class Phase(NamedTuple):
    """How the steps of some epochs differ from those of others."""

    share: float = 1.0
    """The share of their height and width, or length, to which images are brought."""
    still: tuple[int, ...] = ()
    """Numbers of the groups of config.optimizer.groups whose learning rate has come to 0. Their parameters get no
    gradient, and do not count in config.clip_norm."""


WHOLE = Phase()
"""Images of their own size, and all parameters are trained."""


def phase_of(config: Config, epoch: int) -> Phase:
    """Return the phase of an epoch, from 0."""
    lengths = [settings.get("epochs", config.num_epochs) for _, settings in config.optimizer.groups]
    still = tuple(number for number, epochs in enumerate(lengths) if epoch >= epochs)
    first = 0
    for share, epochs in config.progressive_resizing:
        if first <= epoch < first + epochs:
            return Phase(share, still)
        first += epochs
    return Phase(1.0, still)


def phases(config: Config, first: int, last: int) -> list[Phase]:
    """Return the different phases of the epochs from `first` to `last` - 1."""
    return list(dict.fromkeys(phase_of(config, epoch) for epoch in range(first, last)))


def resized(image_shape: tuple[int, ...], share: float) -> tuple[int, ...]:
    """Return the shape of an image, (*spatial, channels), in a phase. The frames of a clip stay as many."""
    *frames_and_sizes, channels = image_shape
    kept = max(0, len(frames_and_sizes) - 2)
    sizes = (max(1, round(share * size)) for size in frames_and_sizes[kept:])
    return (*frames_and_sizes[:kept], *sizes, channels)
