"""--mode=evaluate: loss and accuracy of the best epoch so far of a run."""

import pathlib

import jax

from jaxconv import experiment
from jaxconv.config import Config
from jaxconv.errors import ConfigError
from jaxconv.parallel.sharding import replicated
from jaxconv.runs import checkpoint, console, signature
from jaxconv.runs import workdir as files


def evaluate(config: Config, workdir: pathlib.Path) -> dict[str, float]:
    """Evaluate the best epoch so far of the run in `workdir`. It changes nothing there, and may run beside a training.

    Returns:
        val_loss and val_accuracy, of a run that has a validation split. For a finished run also test_loss and
        test_accuracy: before that, the test set stays closed.

    Raises:
        UserError: there is no run of this config with a finished epoch.
    """
    if (recorded := files.read_config(workdir)) is None:
        raise ConfigError(f"--workdir={workdir} holds no run: train one with --mode=train first.")
    config = experiment.resolve(config, recorded)
    files.check(workdir, config)
    setup = experiment.set_up(config)
    signature.check(workdir, setup.signature)
    state, best = checkpoint.restore_best(workdir, setup.state)
    state = jax.device_put(state, replicated(setup.mesh))
    eval_step = experiment.compile_eval_step(config, setup.mesh, setup.state, setup.image_shape)
    results = {}
    if setup.validation is None:
        console.say("The run has no validation split: config.data.validation is None.")
    else:
        validation = experiment.evaluate(setup, eval_step, state, setup.validation)
        results |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
    if files.read_summary(workdir) is None:
        console.say(f"The best epoch so far is {best['epoch']}. The test set stays closed until the run is finished.")
    else:
        test = experiment.evaluate(setup, eval_step, state, setup.source.load(config.data.test))
        results |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
    return results
