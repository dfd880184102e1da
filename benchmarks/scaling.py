"""The time of a training step against processes, devices and batch size, and of the all-reduce in it.

python -m benchmarks.scaling [--nets=mlp,lenet,cifar_deep] [--batch_sizes=32,128,512] [--rounds=5] [--json=FILE]

A layout is so many processes x so many devices of each. A batch is split among all devices, so this is strong scaling:
the same work on more of them. On a CPU each of several processes has its share of the cores, as jaxconv.local gives it,
and "alone" is one of two processes, with half of the cores and half of the batch, and nobody to talk to. On
accelerators one process drives 1, 2, 4, ... of them. The all-reduce is of float32 vectors, one at a time: between 2
processes on a CPU, and between all accelerators otherwise. `python -m tools.results` makes tables and a figure of the
result.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from absl import app, flags

from benchmarks import interleave
from benchmarks.contestants import NETS, Run, batch_of
from jaxconv.platform import allocator, children, cluster

SIZES = [2**n for n in range(10, 25, 2)]
"""Bytes of the vectors, beside those of the gradients: 1 KiB to 16 MiB."""

_NETS = flags.DEFINE_list("nets", ["mlp", "lenet", "cifar_deep"], f"Any of {', '.join(NETS)}.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["32", "128", "512"], "Examples in a step, over all devices.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each layout.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the result.")


# ---- A contestant, in its own processes


def step(net: str, batch_size: int, num_devices: int) -> Run:
    """The step that launch.py runs, with the look at the signals of all processes that comes with it."""
    import jax

    from jaxconv import config as configs
    from jaxconv import experiment
    from jaxconv.parallel.distributed import Largest
    from jaxconv.parallel.mesh import make_mesh, own_rows, prefetch_to_devices
    from jaxconv.training.in_flight import StepsInFlight

    config = configs.load(f"configs/{net}.py")
    config.batch_size, config.num_devices = batch_size, num_devices
    experiment.start_jax(config)
    config = experiment.resolve(config)
    mesh, shape = make_mesh(num_devices, batch_size), NETS[net].shape
    _, _, state = experiment.create(config, mesh, shape, num_classes=10, steps_per_epoch=1000)
    train_step = experiment.compile_train_step(config, mesh, state, shape)
    images, labels = batch_of(NETS[net], batch_size)
    batch = {"image": images, "label": labels, "weight": np.full(batch_size, 1 / batch_size, np.float32)}
    rows = own_rows(mesh, batch_size)
    (batch,) = prefetch_to_devices([{key: array[rows] for key, array in batch.items()}], mesh)
    overlap = experiment.steps_that_overlap(mesh)
    in_flight, signal_of_any = StepsInFlight(overlap), Largest(mesh, lag=overlap)

    def run(steps: int) -> None:
        nonlocal state
        for number in range(steps):
            state, sums = train_step(state, batch)
            in_flight.add(number, sums)
            signal_of_any(0, after=sums)
            list(in_flight.wait(for_all=False))
        jax.block_until_ready(state)

    return run


def all_reduce(size: int, num_devices: int) -> Run:
    """The sum of a vector of so many bytes over all devices."""
    import jax

    from jaxconv.parallel import distributed
    from jaxconv.parallel.mesh import make_mesh
    from jaxconv.parallel.sharding import SPLIT, WHOLE, split_by_example
    from jaxconv.platform import devices

    devices.share_cores_with_xla()
    if place := cluster.own_place():
        devices.let_threads_take_turns()
        devices.split_cpu(num_devices // place.num_processes)
        distributed.join(place)
    mesh = make_mesh(num_devices, num_devices)
    own = np.ones(len(mesh.local_devices) * size // 4, np.float32)
    vectors = jax.make_array_from_process_local_data(split_by_example(mesh), own)
    add = jax.shard_map(lambda vector: jax.lax.psum(vector, "data"), mesh=mesh, in_specs=SPLIT, out_specs=WHOLE)
    compiled = jax.jit(add).lower(vectors).compile()

    def run(steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(compiled(vectors))

    return run


def start_others(processes: int) -> list[IO[str]]:
    """Make this process the first of several, and start the others with the same command. Return what they read."""
    places = [cluster.Place(f"localhost:{cluster.free_port()}", processes, number) for number in range(processes)]
    pipes = []
    for place in places[1:]:
        place = place._replace(coordinator=places[0].coordinator)
        environment = os.environ | cluster.child() | cluster.worker(place)
        process = subprocess.Popen(sys.orig_argv, stdin=subprocess.PIPE, stdout=sys.stderr, text=True, env=environment)
        assert process.stdin
        pipes.append(process.stdin)
    os.environ |= cluster.worker(places[0])
    return pipes


def answer(kind: str, net_or_size: str, batch_size: int, processes: int, devices: int) -> None:
    """Answer the rounds of `interleave` in the first process. It tells the others how many steps to run."""
    cluster.end_with_parent()
    sys.stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), 1)  # gloo prints there
    others: list[IO[str]] = []
    if processes > 1 and kind != "alone" and cluster.own_place() is None:
        others = start_others(processes)
    place = cluster.own_place()
    with children.share_of_cores(place.process_id if place else 0, processes):
        if kind == "all_reduce":
            run = all_reduce(int(net_or_size), processes * devices)
        elif kind == "alone":
            run = step(net_or_size, batch_size // processes, devices)
        else:
            run = step(net_or_size, batch_size, processes * devices)

        def run_in_all(steps: int) -> None:
            for pipe in others:
                print(steps, file=pipe, flush=True)
            run(steps)

        if place and place.process_id:
            for line in sys.stdin:
                run(int(line))
        else:
            interleave.answer(run_in_all, batch_size)
        for pipe in others:
            pipe.close()


# ---- All of them, in turn


def about(nets: list[str]) -> dict[str, Any]:
    """The devices of this machine, and what the nets cost."""
    import jax

    from jaxconv import config as configs
    from jaxconv.models import registry, summary
    from jaxconv.platform import devices

    costs = {}
    for net in nets:
        model = registry.create_model(configs.load(f"configs/{net}.py").model, num_classes=10)
        traced = summary.trace(model, NETS[net].shape)
        layers = summary.layers(traced)
        costs[net] = {
            "parameters": sum(layer.params for layer in layers),
            "arrays": len(jax.tree.leaves(traced.variables["params"])),
            "multiplications": sum(layer.multiplications for layer in layers),
        }
    first, *_ = found = jax.devices()
    return {
        "platform": first.platform,
        "devices": len(found),
        "processor": devices.processor(first),
        "nets": costs,
    }


def command(*arguments: object) -> interleave.Command:
    """A contestant."""
    environment = allocator.ENVIRONMENT | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # they share accelerators
    return interleave.Command(["-m", "benchmarks.scaling", *map(str, arguments)], environment)


def measure(layouts: list[tuple[int, int]], found: dict[str, Any], say: Callable[[str], object]) -> dict[str, Any]:
    """Images per second by net, batch size and layout, seconds of an all-reduce by bytes, and if Ctrl-C came first."""
    nets = {net: costs | {"images_per_s": {}} for net, costs in found["nets"].items()}
    result: dict[str, Any] = {"nets": nets, "all_reduce": None, "interrupted": False}
    for net, batch_size in [(net, int(size)) for net in nets for size in _BATCH_SIZES.value]:
        commands = {f"{p} x {d}": command("step", net, batch_size, p, d) for p, d in layouts}
        if found["platform"] == "cpu":
            commands["alone"] = command("alone", net, batch_size, 2, 1)

        def of_net(line: str, label: str = f"{net}, batch {batch_size}: ") -> None:
            say(label + line)

        figures, _, result["interrupted"] = interleave.compare(commands, rounds=_ROUNDS.value, say=of_net)
        if figures:
            nets[net]["images_per_s"][str(batch_size)] = figures
        if result["interrupted"]:
            return result
    processes, devices = (2, 1) if found["platform"] == "cpu" else layouts[-1]
    if processes * devices > 1:
        sizes = sorted({*SIZES, *(4 * costs["parameters"] for costs in nets.values())})
        commands = {str(size): command("all_reduce", size, 1, processes, devices) for size in sizes}
        speeds, _, result["interrupted"] = interleave.compare(
            commands, rounds=_ROUNDS.value, say=lambda line: say(f"all-reduces per second by bytes: {line}")
        )
        seconds = {size: [1 / speed for speed in of_size] for size, of_size in speeds.items()}
        result["all_reduce"] = {"processes": processes, "devices": devices, "seconds": seconds}
    return result


def main(argv: list[str]) -> None:
    """Measure, print and write; or, with the name of a contestant, answer."""
    if argv[1:2] == ["about"]:
        print(json.dumps(about(argv[2:])))
        return
    if len(argv) > 1:
        kind, net_or_size, *numbers = argv[1:]
        answer(kind, net_or_size, *map(int, numbers))
        return
    ask = [sys.executable, "-m", "benchmarks.scaling", "about", *_NETS.value]  # this process starts no JAX
    found = json.loads(subprocess.run(ask, stdout=subprocess.PIPE, check=True).stdout)
    if found["platform"] == "cpu":
        layouts = [(1, 1), (1, 2), (2, 1), (2, 2)]
    else:
        layouts = [(1, 2**n) for n in range(found["devices"].bit_length())]
    with interleave.progress() as say:
        measured = measure(layouts, found, say)
    result = {
        "command": "python -m benchmarks.scaling",
        "rounds": _ROUNDS.value,
        "platform": found["platform"],
        "processor": found["processor"],
        **measured,
        "machine": interleave.machine(),
        "versions": interleave.versions(),
    }
    rows = [
        {"images/s": f"{net}, batch {batch_size}"}
        | {layout: f"{statistics.median(speeds):,.0f}" for layout, speeds in figures.items()}
        for net, of_net in measured["nets"].items()
        for batch_size, figures in of_net["images_per_s"].items()
    ]
    interleave.report(f"Processes x devices of each, on {found['processor']}", rows, result, _JSON.value)
    if measured["all_reduce"]:
        rows = [
            {"bytes": f"{int(size):,}", "ms": f"{1000 * statistics.median(seconds):.3f}"}
            for size, seconds in measured["all_reduce"]["seconds"].items()
        ]
        interleave.report("All-reduce", rows, result, None)


if __name__ == "__main__":
    app.run(main)
