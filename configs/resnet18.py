"""ResNet-18 for small images (arXiv:1512.03385), the baseline that researchers compare with. It wants an accelerator.

python launch.py --config=configs/resnet18.py

The recipe is the usual one: SGD with Nesterov momentum, weight decay, crops and flips, a cosine over 200 epochs. Nobody
has trained it to its end here yet.
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.train = "train[:90%]"
    config.data.validation = "train[90%:]"
    config.data.pipeline = "auto"
    config.model.name = "resnet18"
    config.num_epochs = 200
    config.batch_size = 128
    config.augment.horizontal_flip = True
    config.augment.crop_padding = 4
    config.augment.fill = "constant"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 5e-3  # decoupled: PyTorch's 5e-4, which momentum 0.9 multiplies by ten
    return config
