"""90% on CIFAR-10 in a minute and a half on two cores.

python launch.py --config=configs/cifar90.py

The recipe of configs/cifar94.py with a narrower net, batches of 500, and 4 epochs.
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.train = "train"
    config.data.validation = None
    config.data.pipeline = "device"
    config.model.name = "airbench"
    config.model.filters = ((32, 32), (128, 128), (224, 224))
    config.num_epochs = 4
    config.batch_size = 500
    config.compute_dtype = "auto"  # bfloat16, where it is fast
    config.progressive_resizing = ((0.625, 1), (0.75, 1))
    config.label_smoothing = 0.1
    config.loss_reduction = "sum"
    config.augment.alternating_flip = True
    config.augment.crop_padding = 2
    config.augment.fill = "reflect"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.16
    config.optimizer.momentum = 0.6
    config.optimizer.schedule = "linear"
    biases = {"name": "sgd", "momentum": 0.85, "learning_rate": 0.053}
    config.optimizer.groups = (
        ("Whitening_0/bias", biases | {"epochs": 1}),
        ("Conv_[01]/kernel", {"epochs": 3}),  # what stands still needs no gradient
        ("BatchNorm_[01]/*", biases | {"epochs": 3}),
        ("*/bias", biases),
        ("logits/kernel", biases | {"learning_rate": 0.67}),
    )
    config.evaluation.views = "mirror"
    return config
