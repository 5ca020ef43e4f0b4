"""The GPUs of this machine, as torch and the driver tell of them."""

import shutil
import subprocess

import torch


def describe_gpus() -> list[str]:
    """Name and memory of each GPU that torch can use."""
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{one.name}, {one.total_memory / 2**30:.0f} GiB" for one in properties]


def driver_version() -> str:
    """Version of NVIDIA's driver, "" where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""
