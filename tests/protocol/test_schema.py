import torch

from consortium.protocol.schema import Reduction, schema_of


def test_the_schema_follows_the_declared_rules():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    network[0].bias.requires_grad_(False)
    shared = {
        name: spec.reduction for name, spec in schema_of(network, local_buffers=False).items()
    }
    assert shared == {
        "0.bias": Reduction.LOCAL,
        "0.weight": Reduction.MEAN,
        "1.bias": Reduction.MEAN,
        "1.num_batches_tracked": Reduction.INTEGER,
        "1.running_mean": Reduction.MEAN,
        "1.running_var": Reduction.MEAN,
        "1.weight": Reduction.MEAN,
    }
    local = schema_of(network, local_buffers=True)
    assert {name for name, spec in local.items() if spec.reduction is Reduction.LOCAL} == {
        "0.bias",
        "1.num_batches_tracked",
        "1.running_mean",
        "1.running_var",
    }
