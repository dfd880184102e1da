"""The lecture's first net on CIFAR-10: one convolution of 32 filters, 512 dense units, dropout.

python launch.py --config=configs/cifar_simple.py
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.model.name = "cifar_simple"
    config.num_epochs = 20
    config.batch_size = 128
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    return config
