"""The GPUs of this machine, as reported by torch and NVIDIA's driver."""

import shutil
import subprocess

import torch


def describe_gpus() -> list[str]:
    """Returns the name and memory of each GPU that torch can use."""
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in properties]


def driver_version() -> str:
    """Returns the version of NVIDIA's driver, or "" if there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    completed = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return completed.stdout.strip().partition("\n")[0] if completed.returncode == 0 else ""
