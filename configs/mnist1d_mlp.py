"""The dense net beside configs/mnist1d.py: on MNIST-1D it cannot use that neighbouring values belong together.

python launch.py --config=configs/mnist1d_mlp.py

The paper (arXiv:2011.14439) has 68% for a dense net and 94% for a convolutional one.
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "mnist1d"
    config.data.train = "train[:90%]"
    config.data.validation = "train[90%:]"
    config.model.name = "mlp"
    config.model.dense = (1024, 1024)
    config.model.dense_dropout = 0.5  # without it the net learns the training signals by heart
    config.num_epochs = 60
    config.batch_size = 64
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    return config
