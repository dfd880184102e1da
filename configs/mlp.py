"""The lecture's dense baseline on flattened MNIST: two hidden layers of 128 units.

python launch.py --config=configs/mlp.py
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "mnist"
    config.model.name = "mlp"
    config.num_epochs = 20
    config.batch_size = 128
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    return config
