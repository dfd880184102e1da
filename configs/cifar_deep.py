"""The lecture's deeper net on CIFAR-10: two stages of two 3 x 3 convolutions, 512 dense units, dropout.

python launch.py --config=configs/cifar_deep.py
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.model.name = "cifar_deep"
    config.num_epochs = 40
    config.batch_size = 128
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    return config
