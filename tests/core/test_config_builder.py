"""Configurations are built as by MONAI's parser, without MONAI where possible."""

import subprocess
import sys

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from tests.conftest import ROOT

from consortium.core.config_builder import ConfigBuilder
from consortium.core.json_files import read_json_object
from consortium.models.networks import network_config
from consortium.settings.base import override
from consortium.tasks.classification import transforms as radiograph_transforms
from consortium.tasks.registry import load_settings, parse_settings
from consortium.tasks.segmentation.inference import inferer_config
from consortium.tasks.segmentation.transforms import preprocessing_config
from consortium.tasks.tabular.synthetic import generate_tables

FILES = sorted(ROOT.glob("jobs/*/app/config/settings.json")) + sorted(
    ROOT.glob("jobs/*/variants/*.json")
)
SEGMENTATION = FILES[[path.parts[-4] for path in FILES].index("tumor_segmentation")]
COVID = FILES[[path.parts[-4] for path in FILES].index("covid_detection")]
NETWORKS = [
    *((path, ()) for path in FILES),
    *(
        (SEGMENTATION, (f"network.name={name}", f"network.normalisation={normalisation}"))
        for name in ("unet", "segresnet", "dynunet")
        for normalisation in ("instance", "group", "batch")
    ),
    *(
        (COVID, (f"network.name={name}", f"network.normalisation={normalisation}"))
        for name in ("small", "densenet121")
        for normalisation in ("instance", "group", "batch")
    ),
]


def with_changes(path, changes):
    return parse_settings(override(read_json_object(path), list(changes)), path.name)


def built_by_both(config, name):
    """Builds with this package and with MONAI, from the same random numbers."""
    torch.manual_seed(3)
    ours = ConfigBuilder(config).build(name)
    torch.manual_seed(3)
    return ours, ConfigParser(config).get_parsed_content(name)


def test_there_are_configurations():
    assert len(FILES) >= 5


@pytest.mark.parametrize(
    ("path", "changes"),
    NETWORKS,
    ids=[f"{path.parts[-2]}-{path.stem}-{'-'.join(changes)}" for path, changes in NETWORKS],
)
def test_a_network_is_that_of_monais_parser(path, changes):
    settings = with_changes(path, changes)
    ours, theirs = built_by_both(network_config(settings), "network_def")
    assert repr(ours) == repr(theirs)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(other)
    assert all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
@pytest.mark.parametrize("path", [path for path in FILES if "tumor" in str(path)], ids=str)
def test_preprocessing_and_inference_are_those_of_monais_parser(path):
    data = load_settings(path).data
    for config in (preprocessing_config(data), inferer_config(data)):
        ours, theirs = built_by_both({"item": config}, "item")
        assert described(ours) == described(theirs)


@pytest.mark.parametrize("intensity", ["zscore", "percentiles", "equalise"])
def test_an_xray_comes_out_as_by_monais_parser(intensity):
    data = with_changes(COVID, (f"data.intensity={intensity}", "data.lungs=false")).data
    config = radiograph_transforms.preprocessing_config(data)[1:]  # without the loading
    image = torch.rand(1, 70, 90, generator=torch.Generator().manual_seed(1))
    ours, theirs = built_by_both({"item": config}, "item")
    first, second = Compose(ours), Compose(theirs)
    assert torch.equal(first({"image": image})["image"], second({"image": image})["image"])


def described(built):
    """Classes and plain values, in depth; functions by their code."""
    if isinstance(built, list | tuple):
        return [described(part) for part in built]
    if isinstance(built, dict):
        return {key: described(part) for key, part in built.items()}
    if hasattr(built, "__code__"):
        return built.__code__.co_code, built.__code__.co_consts, built.__code__.co_names
    if type(built).__module__.startswith("monai") and hasattr(built, "__dict__"):
        return type(built), described(vars(built))
    return repr(built).partition(" at 0x")[0]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({}, "item is missing"),
        ({"item": "@other"}, "other is missing"),
        ({"item": "@item"}, "item refers to itself"),
        ({"item": "@a::b"}, "@a::b is not supported"),
        ({"item": "%a"}, "%a is not supported"),
        ({"item": {"_target_": "torch.nn.Flatten", "_mode_": "partial"}}, "_mode_ is not"),
    ],
)
def test_what_only_monai_supports_is_refused(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        ConfigBuilder(config).build("item")


TRAINER = """
import sys
from pathlib import Path
import torch
from consortium.client.trainer import LocalTrainer
from consortium.core.site_policy import Site, simulated_privacy
from consortium.models.networks import build_network
from consortium.tasks.registry import load_settings
import consortium.client.worker
settings = load_settings(Path(sys.argv[1])).model_copy(update={"rounds": 1})
privacy = simulated_privacy(1)
site = Site("north", Path(sys.argv[2]), Path(sys.argv[3]), smallest_group=1, privacy=privacy)
trainer = LocalTrainer(site, settings, device=torch.device("cpu"))
trainer.train(build_network(settings).state_dict(), 0)
print(sorted({"monai", "highdicom"} & {*sys.modules}))
"""


def test_a_trainer_of_tables_does_without_monai(tmp_path):
    generate_tables(tmp_path / "data", seed=0)
    folder = sorted(path for path in (tmp_path / "data").iterdir() if path.is_dir())[0]
    (tmp_path / "state").mkdir()
    settings = ROOT / "jobs" / "heart_disease" / "app" / "config" / "settings.json"
    out = subprocess.check_output(
        [sys.executable, "-c", TRAINER, settings, folder, tmp_path / "state"], text=True
    )
    assert out == "[]\n"


RUN = """
import sys
from pathlib import Path
from scripts.benchmarks.federate import federate
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import load_settings
settings = load_settings(Path(sys.argv[1])).model_copy(update={"rounds": 1})
federate(hospital_folders(Path(sys.argv[2])), settings, Path(sys.argv[3]))
print(sorted({"monai", "highdicom"} & {*sys.modules}))
"""


def test_an_orchestrator_of_tables_imports_neither(tmp_path):
    generate_tables(tmp_path / "data", seed=0)
    settings = ROOT / "jobs" / "heart_disease" / "app" / "config" / "settings.json"
    out = subprocess.check_output(
        [sys.executable, "-c", RUN, settings, tmp_path / "data", tmp_path / "run"], text=True
    )
    assert out == "[]\n"
    assert (tmp_path / "run" / "run" / "rounds.jsonl").exists()
