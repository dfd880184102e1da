"""LeNet on MNIST as the lecture draws it: 5 x 5 convolutions of 20 and 50 filters, 500 dense units.

python launch.py --config=configs/lenet.py
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "mnist"
    config.model.name = "lenet"
    config.num_epochs = 20
    config.batch_size = 128
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    # The lecture's Adam is constant; a constant rate ends wherever the last epoch's noise leaves it.
    config.optimizer.schedule = "cosine"
    return config
