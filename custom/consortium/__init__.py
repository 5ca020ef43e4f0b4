"""Consortium: hospitals train one model together while every record stays where it is.

The layers of federated learning are the folders of this package: `orchestration` (rounds),
`training` and `data` (a hospital's local compute), `aggregation`, and `flare`, the only one that
imports NVIDIA FLARE. `cli` holds what people call.
"""

__version__ = "0.1.0"
