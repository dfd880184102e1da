"""Images per second of one training step, ours and the peers', on this machine.

python -m benchmarks.train_step [--nets=lenet,cifar_deep] [--peers=flax,torch] [--batch_size=128] [--rounds=5]
    [--json=FILE]

Each peer is shown as people run it and, as NAME+allocator, with the memory allocator set as ours. Peers with bfloat16
are compared with ours with bfloat16. They come with pip install -e ".[benchmarks]".
"""

import statistics
from typing import Any

from absl import app, flags

from benchmarks import interleave
from benchmarks.contestants import ALLOCATOR, BFLOAT16, CONTESTANTS, NETS, environment

PEERS = [name for name in CONTESTANTS if not name.startswith("jaxconv")]

_NETS = flags.DEFINE_list("nets", list(NETS), f"Any of {', '.join(NETS)}.")
_PEERS = flags.DEFINE_list("peers", PEERS, f"Any of {', '.join(PEERS)}.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples in a step.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each contestant.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the result.")


@flags.multi_flags_validator(["nets", "peers"], message="an unknown net or peer; --help lists them")
def _known(values: dict[str, Any]) -> bool:
    return set(values["nets"]) <= set(NETS) and set(values["peers"]) <= set(PEERS)


def measure(net: str, peers: list[str], batch_size: int, rounds: int, say: Any) -> tuple[dict[str, Any] | None, bool]:
    """Images per second of every contestant on one net, and our ratios to each, if any round was whole.

    Also whether Ctrl-C came before the last round.
    """
    ours = ["jaxconv", *["jaxconv" + BFLOAT16] * any(peer.endswith(BFLOAT16) for peer in peers)]
    names = [*ours, *(peer + suffix for peer in peers for suffix in ("", ALLOCATOR))]
    commands = {
        name: interleave.Command(["-m", "benchmarks.contestants", name, net, str(batch_size)], environment(name))
        for name in names
    }
    figures, missing, interrupted = interleave.compare(commands, rounds=rounds, say=lambda line: say(f"{net}: {line}"))
    if not figures:
        return None, interrupted
    result: dict[str, Any] = {"images_per_s": figures, "missing": missing, "ratios": {}}

    def add_ratio(kind: str, name: str, others: list[str]) -> None:
        """Add our ratio to the fastest of the others that are there."""
        if there := [other for other in others if other in figures]:
            fastest = max(there, key=lambda other: statistics.median(figures[other]))
            middle, lowest, highest = interleave.ratio(figures[name], figures[fastest])
            result["ratios"][kind] = {"peer": fastest, "median": middle, "lowest": lowest, "highest": highest}

    for name in ours:
        is_bfloat16 = name.endswith(BFLOAT16)
        same_dtype = [peer for peer in peers if peer.endswith(BFLOAT16) == is_bfloat16]
        dtype = "bfloat16, " if is_bfloat16 else ""
        add_ratio(f"to the fastest, {dtype}as people run them", name, same_dtype)
        add_ratio(f"to the fastest, {dtype}equal allocator settings", name, [peer + ALLOCATOR for peer in same_dtype])
        if is_bfloat16:
            add_ratio("of bfloat16 to our float32", name, ["jaxconv"])
    return result, interrupted


def main(argv: list[str]) -> None:
    """Measure, print and write."""
    nets, interrupted = {}, False
    with interleave.progress() as say:
        for net in _NETS.value:
            result, interrupted = measure(net, _PEERS.value, _BATCH_SIZE.value, _ROUNDS.value, say)
            if result is not None:
                nets[net] = result
            if interrupted:
                break
    rows = []
    for net, result in nets.items():
        row = {"images/s": net}
        for name, figures in result["images_per_s"].items():
            row[name] = f"{statistics.median(figures):,.0f}"
        row |= dict.fromkeys(result["missing"], "missing")
        for kind, ratio in result["ratios"].items():
            row[f"ratio {kind}"] = (
                f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f}), {ratio['peer']}"
            )
        rows.append(row)
    # Contestants below each other: there are more of them than nets.
    keys = [key for key in rows[0] if key != "images/s"] if rows else []
    turned = [{"": key} | {row["images/s"]: row.get(key, "") for row in rows} for key in keys]
    result = {
        "command": "python -m benchmarks.train_step",
        "batch_size": _BATCH_SIZE.value,
        "rounds": _ROUNDS.value,
        "interrupted": interrupted,
        "nets": nets,
        "machine": interleave.machine(),
        "versions": interleave.versions(),
    }
    interleave.report(f"Images per second, batch {_BATCH_SIZE.value}", turned, result, _JSON.value)


if __name__ == "__main__":
    app.run(main)
