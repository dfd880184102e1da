"""The lecture's deeper net with batch norm, on a folder of your own images, one folder for each class.

python launch.py --config=configs/image_folder.py --config.data.dir=DIR

DIR holds CLASS/FILE, or train, validation and test with CLASS/FILE each. Missing splits are taken from train.
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "image_folder"
    config.data.image_size = 64
    config.data.train = "train"
    config.data.validation = "validation"
    config.data.test = "test"
    config.model.name = "cifar_deep"
    config.model.filters = ((32, 32), (64, 64), (128, 128))  # one stage more, as the images have twice the size
    config.model.batch_norm = True
    config.model.dropout = 0.1
    config.model.global_pooling = "average"  # any image_size fits, and a small folder is not learned by heart so soon
    config.model.dense = ()
    config.num_epochs = 30
    config.batch_size = 32
    config.augment.horizontal_flip = True
    config.augment.width_shift = 0.1
    config.augment.height_shift = 0.1
    config.augment.zoom = 0.1
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    return config
