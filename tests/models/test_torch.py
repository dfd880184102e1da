"""The nets of the record recipe and of ResNet-18 against PyTorch's arithmetic, on the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.config import default_config
from jaxconv.models import registry

torch = pytest.importorskip("torch")
F = torch.nn.functional

SHAPE = (32, 32, 3)


def to_torch(kernel):
    """Convert a kernel from (*kernel, in, out), or (in, out), to PyTorch's layout."""
    return torch.tensor(np.moveaxis(np.asarray(kernel), (-1, -2), (0, 1)).copy(), requires_grad=True)


def batch_norm(x, bias, scale=None, eps=1e-12):
    return F.batch_norm(x, None, None, scale, bias, training=True, eps=eps)


def airbench(weights, whitening, x):
    """The forward pass of airbench94 from its description."""
    x = F.gelu(F.conv2d(x, whitening, weights["Whitening_0"]["bias"]), approximate="tanh")
    for group in range(3):
        for part in range(2):
            number = 2 * group + part
            x = F.conv2d(x, weights[f"Conv_{number}"]["kernel"], padding=1)
            if part == 0:
                x = F.max_pool2d(x, 2)
            x = F.gelu(batch_norm(x, weights[f"BatchNorm_{number}"]["bias"]), approximate="tanh")
    x = F.max_pool2d(x, 3).flatten(1)
    return F.linear(x, weights["logits"]["kernel"]) / x.shape[1]


def resnet18(weights, _, x):
    """The forward pass of ResNet-18 for CIFAR from its description."""
    numbers = {"Conv": 0, "Shortcut": 0, "BatchNorm": 0}

    def take(kind):
        numbers[kind] += 1
        return weights[f"{kind}_{numbers[kind] - 1}"]

    def convolve(x, stride=1, kind="Conv"):
        kernel = take(kind)["kernel"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        norm = take("BatchNorm")
        return batch_norm(x, norm["bias"], norm["scale"], eps=1e-5)

    x = F.relu(convolve(x))
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = convolve(F.relu(convolve(x, stride)))
            x = F.relu(y + (convolve(x, stride, "Shortcut") if stride == 2 else x))
    head = weights["logits"]
    return F.linear(x.mean(dim=(2, 3)), head["kernel"], head["bias"])


@pytest.mark.parametrize(("name", "forward"), [("airbench", airbench), ("resnet18", resnet18)])
def test_logits_and_gradients_equal_pytorch(name, forward):
    config = default_config()
    config.model.name = name
    net = registry.create_model(config.model, num_classes=10)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, *SHAPE)).astype(np.float32)
    variables = jax.jit(lambda key: net.init(key, jnp.asarray(images), train=False))(jax.random.key(0))
    if name == "airbench":
        kernel = variables["whitening"]["Whitening_0"]["kernel"]
        variables["whitening"]["Whitening_0"]["kernel"] = rng.normal(size=kernel.shape).astype(np.float32)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), variables["params"])
    others = {collection: tree for collection, tree in variables.items() if collection != "params"}
    direction = rng.normal(size=(16, 10)).astype(np.float32)

    def product(params):
        logits, _ = net.apply({"params": params, **others}, images, train=True, mutable=list(others))
        return jnp.sum(logits * direction), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(product, has_aux=True))(params)

    def flat(tree):  # a batch norm has flax.linen's layer inside
        return {layer: tree[layer].get("BatchNorm_0", tree[layer]) for layer in tree}

    weights = {
        layer: {
            part: to_torch(leaf) if part == "kernel" else torch.tensor(np.asarray(leaf), requires_grad=True)
            for part, leaf in parts.items()
        }
        for layer, parts in flat(params).items()
    }
    whitening = None if name == "resnet18" else to_torch(others["whitening"]["Whitening_0"]["kernel"])
    x = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    of_torch = forward(weights, whitening, x)
    (of_torch * torch.tensor(direction)).sum().backward()
    np.testing.assert_allclose(logits, of_torch.detach().numpy(), rtol=1e-3, atol=1e-3 * float(jnp.std(logits)))
    for layer, parts in flat(gradients).items():
        for part, gradient in parts.items():
            expected = weights[layer][part].grad.numpy()
            if part == "kernel":
                expected = np.moveaxis(expected, (0, 1), (-1, -2))
            difference = np.linalg.norm(gradient - expected) / np.linalg.norm(expected)
            assert difference < 0.01, f"{layer}/{part}"  # rounding lets a few ReLUs and maxima choose otherwise
