"""A 1-D convolutional net on MNIST-1D (arXiv:2011.14439), ten classes of signals of 40 values.

python launch.py --config=configs/mnist1d.py
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "mnist1d"
    config.data.train = "train[:90%]"
    config.data.validation = "train[90%:]"
    config.model.name = "cifar_deep"
    config.model.filters = ((32, 32), (64, 64), (128,))
    config.model.kernel_size = 5
    config.model.batch_norm = True
    config.model.dropout = 0.25
    config.model.dense = (128,)
    config.num_epochs = 60
    config.batch_size = 64
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.augment.width_shift = 0.1  # up to 4 values to the left or to the right
    config.augment.fill = "constant"
    return config
