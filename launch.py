"""Train, evaluate or explain a convolutional network, or preview its images.

python launch.py --config=configs/quickstart.py
python launch.py --config=configs/lenet.py --workdir=runs/mine --config.seed=1
python launch.py --config=configs/lenet.py --workdir=runs/mine --mode=evaluate
python launch.py --config=configs/lenet.py --mode=explain
python launch.py --config=configs/cifar_deep_augment.py --mode=preview

The same command again goes on where a run left off.
"""

import pathlib

from absl import flags

from jaxconv import cli
from jaxconv.config import Config

CONFIG = flags.DEFINE_string(
    "config", None, "The recipe: a file such as configs/lenet.py. --config.KEY=VALUE changes a field of it."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; runs/NAME for configs/NAME.py if not given.")
MODE = flags.DEFINE_enum("mode", "train", list(cli.MODES), "What to do.")
JSON = flags.DEFINE_bool("json", False, f"Print the results as JSON. For --mode={' and '.join(cli.WITH_JSON)}.")


def main(config: Config) -> None:
    """Hand over to jaxconv."""
    name = pathlib.Path(CONFIG.value or "").stem
    workdir = pathlib.Path(WORKDIR.value or f"runs/{name}")
    cli.run(MODE.value, config, cli.Arguments(workdir, json=JSON.value))


if __name__ == "__main__":
    cli.start(main)
