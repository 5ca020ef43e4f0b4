"""The assignment of a hospital's GPUs. There is none here: `nvidia-smi` is a script with two."""

import os

import pytest
from nvflare.apis.fl_context import FLContext
from tests.flare.nvidia_smi import SMI

from consortium.core.files import write_json
from consortium.flare.parent.gpus import HospitalGPUs


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """Makes the manager of a hospital with the given statements."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(SMI)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)

    def make(**stated):
        write_json(tmp_path / "local" / "hospital.json", stated)
        return HospitalGPUs()

    return make


def start(manager, **asked):
    """The GPUs that a job with this request sees; None if it has to wait."""
    enough, token = manager.check_resources(asked, FLContext())
    if not enough:
        return None
    given = manager.allocate_resources(asked, token, FLContext())
    return os.environ["CUDA_VISIBLE_DEVICES"], given


def test_a_gpu_belongs_to_one_job_until_it_ends(manager):
    gpus = manager(gpus=2, gpu_memory=16)
    first, second = start(gpus, num_of_gpus=1), start(gpus, num_of_gpus=1, mem_per_gpu_in_GiB=4)
    assert (first[0], second[0]) == ("0", "1")
    assert start(gpus, num_of_gpus=1, mem_per_gpu_in_GiB=1) is None
    assert start(gpus, num_of_gpus=1, cpu_instead=True) is None
    gpus.free_resources(first[1], "", FLContext())
    assert start(gpus, num_of_gpus=1)[0] == "0"


def test_a_job_that_asks_for_none_sees_none_whatever_ran_before(manager):
    gpus = manager(gpus=1, gpu_memory=16)
    assert start(gpus, num_of_gpus=1)[0] == "0"
    assert start(gpus) == ("", {})


def test_jobs_share_a_gpu_only_if_the_hospital_allows_it(manager):
    gpus = manager(gpus=1, gpu_memory=16, share_gpus=True)
    half = {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 8}
    assert [start(gpus, **half)[0], start(gpus, **half)[0]] == ["0", "0"]
    assert start(gpus, **half) is None


def test_a_hospital_without_a_gpu_waits_or_trains_on_its_cpu_as_the_job_says(manager):
    gpus = manager()
    assert start(gpus, num_of_gpus=1) is None
    assert start(gpus, num_of_gpus=1, cpu_instead=False) is None
    assert start(gpus, num_of_gpus=1, cpu_instead=True) == ("", {})


def test_more_than_a_gpu_has_is_never_given(manager):
    assert start(manager(gpus=2, gpu_memory=16), num_of_gpus=1, mem_per_gpu_in_GiB=17) is None
    assert start(manager(gpus=2, gpu_memory=16), num_of_gpus=3) is None


def test_a_hospital_that_states_more_than_it_has_gets_an_error(manager):
    with pytest.raises(ValueError, match="exceeds available GPUs: 2"):
        manager(gpus=3, gpu_memory=16)
    with pytest.raises(ValueError, match="exceeds available GPU memory"):
        manager(gpus=1, gpu_memory=80)
