"""Trains with what `docs/extending.md` adds; run by `test_extending.py` in a copy of the package.

Arguments: the folder of the hospitals, a folder for their states, and several settings by a name,
as JSON. Prints a JSON object by these names: the losses of three rounds of every hospital, the
class of the network, and whether the model changed.
"""

import json
import sys
from pathlib import Path

import torch

from consortium.aggregation import RULES
from consortium.client.trainer import LocalTrainer
from consortium.core.site_policy import Site, simulated_privacy
from consortium.models.networks import build_network
from consortium.protocol.schema import schema_of
from consortium.tasks.registry import parse_settings

ROUNDS = 3


def train(data: Path, state: Path, raw: dict) -> dict:
    """Three rounds of all hospitals, as a run would ask for them."""
    settings = parse_settings(raw)
    network = build_network(settings)
    chosen = settings.rule
    rule = RULES[chosen.rule](schema_of(network, local_buffers=False), **chosen.options)
    hospitals = {
        folder.name: LocalTrainer(
            Site(
                folder.name,
                folder,
                state / folder.name,
                smallest_group=1,
                privacy=simulated_privacy(1),
            ),
            settings,
            device=torch.device("cpu"),
        )
        for folder in sorted(data.iterdir())
    }
    model = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start = model
    losses = {name: [] for name in hospitals}
    for number in range(ROUNDS):
        rule.reset()
        for name, hospital in hospitals.items():
            update = hospital.train(model, number)
            losses[name].append(update.metrics.loss)
            rule.add(name, update.tensors, update.cases)
        change = rule.aggregate().change
        model = {name: tensor + change[name] for name, tensor in model.items()}
    changed = any(not torch.equal(start[name], model[name]) for name in model)
    return {"losses": losses, "changed": changed, "network": type(network).__name__}


if __name__ == "__main__":
    data, state = Path(sys.argv[1]), Path(sys.argv[2])
    every = json.loads(sys.argv[3])
    print(json.dumps({name: train(data, state / name, raw) for name, raw in every.items()}))
