"""Flower's simulation for the benchmark `scale`; runs in Flower's own environment.

    python scale_flower.py HOSPITALS ROUNDS MODEL.npz

Prints the seconds of each round as JSON. The clients answer at once with the received model plus a
change, like the hospitals of the other two.
"""

import json
import sys
import time
from itertools import pairwise

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client, server = ClientApp(), ServerApp()
moments = []


@client.train()
def train(message: Message, context: Context) -> Message:
    """Adds a change to the model."""
    arrays = message.content["arrays"].to_numpy_ndarrays()
    noise = np.random.default_rng(0)
    changed = [one + 1e-3 * noise.standard_normal(one.shape, np.float32) for one in arrays]
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": ArrayRecord(changed), "metrics": metrics})
    return Message(content=content, reply_to=message)


class Clocked(FedAvg):
    """Federated averaging that records the start times of its rounds."""

    def configure_train(self, server_round, arrays, config, grid):
        """Records the start of a round."""
        moments.append(time.monotonic())
        return super().configure_train(server_round, arrays, config, grid)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the rounds, and one more, whose start ends the last counted round."""
    hospitals, rounds = int(sys.argv[1]), int(sys.argv[2])
    model = [array.astype(np.float32) for array in np.load(sys.argv[3]).values()]
    strategy = Clocked(
        fraction_evaluate=0.0,
        min_train_nodes=hospitals,
        min_evaluate_nodes=0,
        min_available_nodes=hospitals,
    )
    strategy.start(grid, ArrayRecord(model), num_rounds=rounds + 2)


if __name__ == "__main__":
    run_simulation(
        server,
        client,
        num_supernodes=int(sys.argv[1]),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    # The first round opens everything and is not counted.
    print(json.dumps([after - before for before, after in pairwise(moments)][1:]))
