"""Assigns a hospital's GPUs to jobs, as the hospital states them in `local/hospital.json`.

FLARE's resource manager reads their number from `resources.json`, which is signed. It lets two jobs
share a GPU if their stated memory fits. A job that asks for none sees the GPUs of the site's
process or of the job before it. Here a GPU belongs to one job unless the hospital allows sharing,
and a job sees only its own GPUs.
"""

import os
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.resource_managers.gpu_resource_manager import (
    CUDA_VISIBLE_DEVICES,
    GPUResourceManager,
)

from consortium.kits.hospital import read_hospital

CPU_INSTEAD = "cpu_instead"
"""Key of a job's request: a hospital without a GPU trains on its CPU instead of waiting."""


class HospitalGPUs(GPUResourceManager):
    """Admits jobs by the GPUs that the hospital states.

    Args:
        ignore_host: do not compare them with the output of `nvidia-smi`.
    """

    def __init__(self, ignore_host: bool = False):
        # FLARE has changed into the kit's folder before it builds components.
        own = read_hospital(Path.cwd())
        super().__init__(
            num_of_gpus=own.gpus,
            mem_per_gpu_in_GiB=own.gpu_memory,
            expiration_period=300,
            ignore_host=ignore_host,
        )
        self._memory, self._shared = own.gpu_memory, own.share_gpus

    def allocate_resources(
        self, resource_requirement: dict[str, Any], token: str, fl_ctx: FLContext
    ) -> dict[Any, Any]:
        """Allocates a job's GPUs; the job's process, started next, inherits the variable."""
        gpus: dict[Any, Any] = super().allocate_resources(resource_requirement, token, fl_ctx)
        os.environ[CUDA_VISIBLE_DEVICES] = ",".join(str(gpu) for gpu in gpus)
        return gpus

    def _check_required_resource_available(self, resource_requirement: dict[str, Any]) -> bool:
        return bool(super()._check_required_resource_available(self._resolve(resource_requirement)))

    def _reserve_resource(self, resource_requirement: dict[str, Any]) -> dict[Any, Any]:
        return dict(super()._reserve_resource(self._resolve(resource_requirement)))

    def _resolve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Returns the requirement that a request means at this hospital."""
        if not request.get(self.num_gpu_key) or (request.get(CPU_INSTEAD) and not self.resources):
            return {}
        memory = request.get(self.gpu_mem_key, 0)
        if not self._shared:
            memory = max(memory, self._memory)
        return {**request, self.gpu_mem_key: memory}
