"""Train a convolutional network; see, evaluate, explain, use or export it.

python launch.py --config=configs/quickstart.py
python launch.py --config=configs/lenet.py --workdir=runs/mine --config.seed=1
python launch.py --config=configs/lenet.py --workdir=runs/mine --mode=evaluate
python launch.py --config=configs/lenet.py --mode=explain
python launch.py --config=configs/lenet.py --mode=report
python launch.py --config=configs/cifar_deep_augment.py --mode=preview
python launch.py --config=configs/lenet.py --mode=predict --images=digit.jpg
python launch.py --config=configs/lenet.py --mode=export

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
IMAGES = flags.DEFINE_multi_string(
    "images", [], "Files, directories or globs, parted by commas; may be repeated. For --mode=predict."
)
TOP = flags.DEFINE_integer("top", 3, "How many classes of each image to print. For --mode=predict.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0. It, --num_processes and --process_id are for several processes."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes train together. SLURM, Open MPI and Cloud TPU say it by themselves."
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0. Process 0 writes and reports.")


def main(config: Config) -> None:
    """Hand over to jaxconv."""
    name = pathlib.Path(CONFIG.value or "").stem
    workdir = pathlib.Path(WORKDIR.value or f"runs/{name}")
    processes = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    arguments = cli.Arguments(workdir, JSON.value, tuple(IMAGES.value), TOP.value, processes)
    cli.run(MODE.value, config, arguments)


if __name__ == "__main__":
    cli.start(main)
