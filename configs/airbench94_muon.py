"""The record recipe airbench94_muon for 94% on CIFAR-10, for an accelerator (arXiv:2404.00498).

python launch.py --config=configs/airbench94_muon.py

benchmarks/peers/airbench94_muon.py is the same in PyTorch. configs/cifar94.py is what became of it for two cores.
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.train = "train"
    config.data.validation = None  # the last epoch counts
    config.data.pipeline = "device"
    config.model.name = "airbench"
    config.num_epochs = 8
    config.batch_size = 2000
    config.compute_dtype = "auto"  # bfloat16, where it is fast
    config.label_smoothing = 0.2
    config.loss_reduction = "sum"
    config.augment.alternating_flip = True
    config.augment.crop_padding = 2
    config.augment.fill = "reflect"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.24
    config.optimizer.momentum = 0.6
    config.optimizer.schedule = "linear"
    # Weight decay is decoupled here: what the recipe adds to a gradient, its momentum multiplies by 1 / (1 - 0.85).
    biases = {"name": "sgd", "momentum": 0.85, "learning_rate": 0.053, "weight_decay": 0.5}
    config.optimizer.groups = (
        ("Whitening_0/bias", biases | {"epochs": 3}),
        ("*/bias", biases),
        ("logits/kernel", biases | {"learning_rate": 0.67, "weight_decay": 0.04}),
    )
    config.evaluation.views = "mirror_and_shifts"
    return config
