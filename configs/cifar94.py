"""94.0% on CIFAR-10 in eleven minutes on two cores: airbench94's net, with Muon in bfloat16 (arXiv:2404.00498).

python launch.py --config=configs/cifar94.py

Against the record recipe for a GPU: batches of 500, smaller images in the first three epochs, a smaller rate for Muon,
shifts of up to 4 pixels, 13 epochs instead of 8, and the first group of filters stands still in the last of them.
benchmarks/LOG.md says what each of these brought.
"""

from jaxconv.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.train = "train"
    config.data.validation = None  # the last epoch counts
    config.data.pipeline = "device"
    config.model.name = "airbench"
    config.num_epochs = 13
    config.batch_size = 500
    config.compute_dtype = "auto"  # bfloat16, where it is fast
    config.progressive_resizing = ((0.625, 1), (0.75, 2))
    config.label_smoothing = 0.2
    config.loss_reduction = "sum"
    config.augment.alternating_flip = True
    config.augment.crop_padding = 4
    config.augment.fill = "reflect"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.18
    config.optimizer.momentum = 0.6
    config.optimizer.schedule = "linear"
    biases = {"name": "sgd", "momentum": 0.85, "learning_rate": 0.053}
    config.optimizer.groups = (
        ("Whitening_0/bias", biases | {"epochs": 1}),
        ("Conv_[01]/kernel", {"epochs": 12}),  # what stands still needs no gradient
        ("BatchNorm_[01]/*", biases | {"epochs": 12}),
        ("*/bias", biases),
        ("logits/kernel", biases | {"learning_rate": 0.67}),
    )
    config.evaluation.views = "mirror_and_shifts"
    return config
