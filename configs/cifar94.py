"""94% on CIFAR-10 in minutes on two cores: airbench94's net and Muon, in bfloat16.

python launch.py --config=configs/cifar94.py
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.train = "train"
    config.data.validation = None
    config.data.pipeline = "device"
    config.model.name = "airbench"
    config.num_epochs = 7
    config.batch_size = 500
    config.compute_dtype = "bfloat16"
    config.label_smoothing = 0.2
    config.loss_reduction = "sum"
    config.augment.alternating_flip = True
    config.augment.crop_padding = 2
    config.augment.fill = "reflect"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.24
    config.optimizer.momentum = 0.6
    config.optimizer.schedule = "linear"
    sgd = {"name": "sgd", "momentum": 0.85}
    config.optimizer.groups = (
        ("Whitening_0/bias", sgd | {"learning_rate": 0.053, "epochs": 3}),
        ("*/bias", sgd | {"learning_rate": 0.053}),
        ("logits/kernel", sgd | {"learning_rate": 0.67}),
    )
    config.evaluation.views = "mirror_and_shifts"
    config.report = False
    return config
