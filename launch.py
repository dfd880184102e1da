"""Train a convolutional network, evaluate one, or look at the images that it will be trained on.

python launch.py --config=configs/quickstart.py
python launch.py --config=configs/cifar_deep.py --workdir=runs/mine --config.batch_size=256
python launch.py --config=configs/cifar_deep.py --workdir=runs/mine --mode=evaluate
python launch.py --config=configs/cifar_deep_augment.py --mode=preview

The same command again goes on where a run left off.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from jaxconv import cli

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="The recipe: a file such as configs/lenet.py; --config.KEY=VALUE changes a field of it.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; runs/NAME for configs/NAME.py if not given.")
MODE = flags.DEFINE_enum("mode", "train", cli.MODES, "What to do.")


def main(argv: list[str]) -> None:
    """Hand over to jaxconv."""
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    cli.run(MODE.value, CONFIG.value, WORKDIR.value or f"runs/{name}")


if __name__ == "__main__":
    cli.start(main)
