"""Write a set of TensorFlow Datasets as one file, for machines without TensorFlow.

python -m jaxconv.data.prepare --name=mnist [--data_dir=DIR]

The file is DIR/jaxconv/NAME.npz. DIR is where the set is: by default $TFDS_DATA_DIR, or ~/tensorflow_datasets. It has
all splits of the set.
"""

import sys
from collections.abc import Callable

import numpy as np
from absl import app, flags

from jaxconv.config import Config, default_config
from jaxconv.data import prepared, tfds
from jaxconv.data.examples import Examples
from jaxconv.data.tensorflow import is_installed
from jaxconv.errors import ConfigError, UserError
from jaxconv.platform import compatibility


def prepare(data: Config) -> str:
    """Write the file of the set that config.data names. Downloads the set if necessary.

    Returns:
        The path of the file.

    Raises:
        UserError: there is no such set, it cannot be read, or the file cannot be written.
    """
    if not is_installed():
        raise ConfigError(
            "python -m jaxconv.data.prepare needs TensorFlow and TensorFlow Datasets: pip install tensorflow "
            "tensorflow-datasets, or run it on another machine and copy the file."
        )
    builder = tfds.find_builder(data, others=())
    source = tfds.open_builder(builder, data)
    splits = {name: _read(source.load, name, info.shard_lengths) for name, info in builder.info.splits.items()}
    path = prepared.path_of(data)
    prepared.write(path, source.version, source.class_names, splits)
    return str(path)


def _read(load: Callable[[str], Examples], name: str, shards: list[int]) -> prepared.Split:
    """Read a split file by file, since TFDS mixes the files that it reads together."""
    read: list[Examples] = [load(f"{name}[{number}shard]") for number, count in enumerate(shards) if count]
    images, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    return prepared.Split(Examples(images, labels), np.array(shards))


def main(argv: list[str]) -> None:
    """Write the file, and print its path."""
    compatibility.quiet()
    data = default_config().data
    data.name, data.data_dir = flags.FLAGS.name, flags.FLAGS.data_dir
    try:
        print(prepare(data))
    except UserError as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    flags.DEFINE_string("name", None, "The set of TensorFlow Datasets, such as mnist.", required=True)
    flags.DEFINE_string("data_dir", None, "Where the set is; the file goes there, too.")
    app.run(main)
