"""The lecture's deeper net and epochs, with the best recipe found on the validation split.

python launch.py --config=configs/cifar_deep_augment_plus.py
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.model.name = "cifar_deep"
    config.num_epochs = 50
    config.batch_size = 128
    config.augment.horizontal_flip = True
    config.augment.crop_padding = 4
    config.augment.fill = "reflect"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 0.05
    return config
