"""The lecture's last and best system: the deeper net, trained on images that are changed anew in every epoch.

python launch.py --config=configs/cifar_deep_augment.py

The lecture's five transformations: rotation, rescaling, flips, zoom, channel shift. Look at them:
python launch.py --config=configs/cifar_deep_augment.py --mode=preview
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.model.name = "cifar_deep"
    config.num_epochs = 50
    config.batch_size = 128
    config.augment.rotation = 10.0
    config.augment.rescaling = 0.1
    config.augment.zoom = 0.1
    config.augment.horizontal_flip = True
    config.augment.channel_shift = 20.0
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    return config
