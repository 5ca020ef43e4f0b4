"""A process whose trainer process trains for ever, to be killed: DATA STATE SETTINGS."""

import sys
from pathlib import Path

from consortium.client.process import TrainerProcess
from consortium.core.site_policy import Site, simulated_privacy
from consortium.models.networks import build_network
from consortium.protocol.codec import pack
from consortium.tasks.registry import load_settings

PARENT = (sys.executable, __file__)
"""The command, without its arguments."""


def main() -> None:
    """Asks a trainer process for a training that does not end."""
    data, state, file = map(Path, sys.argv[1:])
    settings = load_settings(file)
    site = Site("north", data, state, smallest_group=1, privacy=simulated_privacy(1))
    trainer = TrainerProcess("consortium.client.trainer:LocalTrainer", site, settings)
    model = pack(build_network(settings, seed=1).state_dict())
    trainer.ask("train_local", model, lambda: False, rounds=100000)


if __name__ == "__main__":
    main()
