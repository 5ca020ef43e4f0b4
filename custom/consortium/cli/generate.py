"""`scripts/generate`: writes brain scans that look like several hospitals."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from consortium.errors import ConsortiumError
from consortium.generator.dataset import generate
from consortium.generator.hospitals import HOSPITALS


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: of the command line; by default the process's own.

    Returns:
        The exit code: 0, or that of the error that was printed.
    """
    parser = argparse.ArgumentParser(prog="generate", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder, new or empty")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.add_argument(
        "--dims",
        type=int,
        choices=(2, 3),
        default=2,
        help="2: stacks of thick slices, 3: voxels of equal sides (default: 2)",
    )
    options = parser.parse_args(arguments)
    try:
        generate(options.out, seed=options.seed, spatial_dims=options.dims)
    except ConsortiumError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for hospital in HOSPITALS:
        print(f"{options.out / hospital.name}: {hospital.patients + hospital.held_out} patients")
    return 0


if __name__ == "__main__":
    sys.exit(main())
