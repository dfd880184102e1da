"""A net that reads digits, and the demo of a net in this process."""

import contextlib
import http.client
import json
import threading
from typing import NamedTuple

import jax
import numpy as np
import uvicorn

from jaxconv import experiment
from jaxconv.config import load
from jaxconv.data.sample import digits
from jaxconv.demo.__main__ import listen
from jaxconv.demo.server import create_app
from jaxconv.models import attribution, registry
from jaxconv.runs.signature import Signature
from jaxconv.runs.trained import Trained
from tests.conftest import ROOT


def net_of_digits():
    """A small LeNet in a second: random filters, and logits by least squares. It reads 95% of other digits."""
    config = load(str(ROOT / "configs" / "quickstart.py"))
    config.model.filters, config.model.dense = ((8,), (16,)), ()
    model, rng = registry.create_model(config.model, 10), np.random.default_rng(0)
    images, labels = (array[:3000] for array in digits())
    signature = Signature(tuple("0123456789"), (28, 28, 1), "uint8", (33.0,), (79.0,), 3000)

    def some(leaf):
        scale = np.sqrt(2 * leaf.shape[-1] / leaf.size) if leaf.ndim > 1 else 0
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    example = np.zeros((1, 28, 28, 1), np.float32)
    variables = jax.tree.map(some, jax.eval_shape(lambda: model.init(jax.random.key(0), example, train=False)))
    last_stage = jax.jit(lambda x: attribution.feature_maps(model, variables, x)[1][-1])
    maps = np.concatenate([last_stage(signature.normalize(part)) for part in np.split(images, 6)])
    inputs = np.column_stack([maps.reshape(3000, -1), np.ones(3000)]).astype(float)
    solution = np.linalg.solve(inputs.T @ inputs + 10 * np.eye(785), inputs.T @ (10 * np.eye(10)[labels]))
    variables["params"]["logits"] = {
        "kernel": solution[:-1].astype(np.float32),
        "bias": solution[-1].astype(np.float32),
    }
    return Trained(model, variables, signature, experiment.resolve(config), {"epoch": 1, "val_accuracy": 0.95})


@contextlib.contextmanager
def serving(net, run="a run"):
    """Serve the demo of a net, and yield its port."""
    with listen("127.0.0.1", 0) as listener:
        app = create_app(net, run, {"localhost", "127.0.0.1", "[::1]"})
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical", loop="asyncio", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


class Answer(NamedTuple):
    """What a server sent."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        """The body as JSON."""
        return json.loads(self.body)


def call(port, method, path, body=None, headers=None):
    """Send one request. An iterator as the body is sent in chunks, without a Content-Length."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
