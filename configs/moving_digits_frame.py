"""A 2-D net on one frame of each clip of configs/moving_digits.py: a frame alone does not show where the digit moves.

python launch.py --config=configs/moving_digits_frame.py

With eight directions, chance is 12.5%.
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "moving_digits_frame"
    config.data.train = "train[:80%]"
    config.data.validation = "train[80%:]"
    config.model.name = "cifar_deep"
    config.model.filters = ((16,), (32,), (64,))
    config.model.kernel_size = (3, 3)
    config.model.pool_size = (2, 2)
    config.model.global_pooling = "average"
    config.model.dropout = 0.0
    config.model.dense = (64,)
    config.model.dense_dropout = 0.0
    config.num_epochs = 10
    config.batch_size = 64
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    return config
