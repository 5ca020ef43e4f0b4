import json
import os
import warnings
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from safetensors.torch import save_file
from tests.conftest import LGG, needs_real_data
from tests.memory import memory_limited_to
from tests.waiting import without_waiting

from consortium.core.errors import EnvironmentProblem, Refused, UsageError
from consortium.models.bundle import load_bundle, load_state, require_match, write_bundle
from consortium.models.networks import build_network
from consortium.settings.base import Settings, UpdateSettings
from consortium.tasks.registry import parse_settings
from consortium.tasks.segmentation.datalist import Datalist
from consortium.tasks.segmentation.inference import (
    load_case,
    predict_case,
    predict_probabilities,
    to_mask,
)
from consortium.tasks.segmentation.match import require_data

JEFFERSON = LGG / "thomas_jefferson"
SHAPE = (20, 18, 10)


def settings(data: dict | None = None, **network: object) -> Settings:
    base = {"channels": ["T1", "FLAIR"], "labels": {"tumour": [1]}, "size": [16, 16]}
    return parse_settings(
        {"data": base | (data or {}), "network": {"features": [4, 8, 16], **network}}
    )


def undecided(job: Settings, scan: Path) -> torch.nn.Module:
    """A network whose initial weights find every structure in half of the scan."""
    network = build_network(job)
    last = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)][-1]
    torch.nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(1))
    probabilities = predict_probabilities(network, load_case(job, scan, None).image, job, "cpu")
    with torch.no_grad():
        last.bias -= probabilities.logit().flatten(1).median(1).values
    return network


@pytest.fixture
def scan(tmp_path) -> Path:
    affine = np.array([[0, -1.2, 0, 3], [0.9, 0, 0, 1], [0, 0, 2.5, -7], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(0).normal(100, 20, (*SHAPE, 2)).astype(np.float32)
    voxels[:3] = 0
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_bundle_brings_back_settings_and_weights(tmp_path):
    job = settings()
    state = build_network(job).state_dict()
    sha = write_bundle(tmp_path / "model", job, state, trained={"rounds": 3})
    loaded, network = load_bundle(tmp_path / "model", "cpu")
    assert loaded == job
    assert not network.training
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    metadata = json.loads((tmp_path / "model/configs/metadata.json").read_text())
    assert metadata["consortium"]["trained"] == {"rounds": 3}
    inputs = metadata["network_data_format"]["inputs"]["image"]
    assert inputs["channel_def"] == {"0": "T1", "1": "FLAIR"}
    assert len(sha) == 64


def test_the_same_model_gives_the_same_bytes_and_no_other_files(tmp_path):
    job = settings()
    state = build_network(job).state_dict()
    backwards = dict(reversed(state.items()))
    first = write_bundle(tmp_path / "a", job, state, trained={})
    assert first == write_bundle(tmp_path / "b", job, backwards, trained={})
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert sorted(content(tmp_path / "a")) == [
        "configs/inference.json",
        "configs/metadata.json",
        "models/model.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_bundle_is_replaced_as_a_whole_and_other_folders_are_not(tmp_path):
    job, folder = settings(), tmp_path / "model"
    write_bundle(folder, job, build_network(job, 1).state_dict(), trained={})
    state = build_network(job, 2).state_dict()
    write_bundle(folder, job, state, trained={})
    assert torch.equal(load_state(folder, state)["1.weight"], state["1.weight"])
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="folder-in-use"):
        write_bundle(tmp_path / "papers", job, state, trained={})
    assert (tmp_path / "papers/thesis.txt").exists()


def test_the_previous_bundle_stays_when_writing_fails(tmp_path, monkeypatch):
    job, folder = settings(), tmp_path / "model"
    write_bundle(folder, job, build_network(job, 1).state_dict(), trained={})
    before = content(folder)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("consortium.core.files.os.fsync", full)
    with pytest.raises(EnvironmentProblem, match="disk-full"):
        write_bundle(folder, job, build_network(job, 2).state_dict(), trained={})
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def run_with_monai(folder: Path, image: Path, output: Path) -> np.ndarray:
    with warnings.catch_warnings():
        # MONAI warns whenever a configuration file is run, trusted or not.
        warnings.filterwarnings("ignore", "parsing config_file", UserWarning)
        # Where pydicom is installed, MONAI makes a reader that asks for a GPU's library.
        warnings.filterwarnings("ignore", "NvImgCodecPydicomReader", UserWarning)
        monai.bundle.run(
            config_file=str(folder / "configs/inference.json"),
            bundle_root=str(folder),
            image=str(image),
            output=str(output),
            device="$torch.device('cpu')",
        )
    return np.asarray(nibabel.load(output).dataobj)


@pytest.mark.parametrize(
    ("data", "network"),
    [
        ({}, {}),
        ({"labels": {"core": [2], "rim": [1]}, "intensity": "zscore"}, {"name": "segresnet"}),
        (
            {
                "labels": {"whole": [1, 2], "core": [2]},
                "spatial_dims": 3,
                "size": [16, 16, 16],
                "spacing": [1, 1, 2],
                "intensity": "percentiles",
            },
            {"name": "dynunet", "normalisation": "instance"},
        ),
    ],
)
def test_the_bundle_run_by_monai_alone_writes_the_very_same_mask(tmp_path, scan, data, network):
    job = settings(data, **network)
    write_bundle(tmp_path / "model", job, undecided(job, scan).state_dict(), trained={})
    theirs = run_with_monai(tmp_path / "model", scan, tmp_path / "mask.nii.gz")
    loaded, model = load_bundle(tmp_path / "model", "cpu")
    case = load_case(loaded, scan, None)
    ours = to_mask(predict_case(model, case, loaded, "cpu"), loaded).numpy()
    assert theirs.shape == SHAPE
    assert theirs.dtype == np.uint8
    assert np.array_equal(theirs, ours)
    assert {0, *(values[0] for values in job.data.labels.values())} == set(np.unique(ours))
    assert np.array_equal(nibabel.load(tmp_path / "mask.nii.gz").affine, nibabel.load(scan).affine)


def test_the_bundles_configuration_does_not_mention_this_package(tmp_path):
    job = settings()
    write_bundle(tmp_path / "model", job, build_network(job).state_dict(), trained={})
    path = tmp_path / "model/configs/inference.json"
    assert "consortium" not in path.read_text()
    parser = ConfigParser(json.loads(path.read_text()))
    network = parser.get_parsed_content("network_def")
    assert network.state_dict().keys() == build_network(job).state_dict().keys()


def test_opening_a_foreign_bundle_runs_none_of_its_configuration(tmp_path):
    job = settings()
    write_bundle(tmp_path / "model", job, build_network(job).state_dict(), trained={})
    trap = tmp_path / "sprung"
    hostile = f"$__import__('pathlib').Path({str(trap)!r}).touch()"
    path = tmp_path / "model/configs/inference.json"
    path.write_text(json.dumps({"network_def": hostile, "imports": [hostile], "run": [hostile]}))
    metadata = tmp_path / "model/configs/metadata.json"
    changed = json.loads(metadata.read_text())
    changed["consortium"]["settings"]["data"]["channels"] = [hostile, "b"]
    metadata.write_text(json.dumps(changed))
    load_bundle(tmp_path / "model", "cpu")
    assert not trap.exists()


def rewritten(folder: Path, change) -> None:
    path = folder / "configs/metadata.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_a_folder_that_is_no_bundle_is_refused_with_its_reason(tmp_path):
    job = settings()
    folder = tmp_path / "model"
    with pytest.raises(UsageError, match="missing-folder"):
        load_bundle(folder, "cpu")
    folder.mkdir()
    with pytest.raises(Refused, match=r"not-a-bundle: there is no configs/metadata.json"):
        load_bundle(folder, "cpu")
    for change, message in [
        (lambda raw: raw.pop("consortium"), "has no consortium settings"),
        (lambda raw: raw["consortium"]["settings"].update(tomorrow=1), "no setting tomorrow"),
        (lambda raw: raw["consortium"]["settings"]["data"].update(size=[3, 3]), "data.size"),
    ]:
        write_bundle(tmp_path / "b", job, build_network(job).state_dict(), trained={})
        rewritten(tmp_path / "b", change)
        with pytest.raises(Refused, match=f"not-a-bundle: .*{message}"):
            load_bundle(tmp_path / "b", "cpu")
    (tmp_path / "b/configs/metadata.json").write_text("{")
    with pytest.raises(Refused, match="not-a-bundle"):
        load_bundle(tmp_path / "b", "cpu")
    write_bundle(tmp_path / "b", job, build_network(job).state_dict(), trained={})
    (tmp_path / "b/models/model.safetensors").write_bytes(b"nothing")
    with pytest.raises(Refused, match="no readable safetensors file"):
        load_bundle(tmp_path / "b", "cpu")


def test_a_model_of_another_architecture_names_the_first_tensor_that_differs(tmp_path):
    job = settings()
    expected = build_network(job).state_dict()

    def refusal(change) -> str:
        state = {name: tensor.clone() for name, tensor in expected.items()}
        change(state)
        save_file(state, tmp_path / "start.safetensors")
        with pytest.raises(Refused) as caught:
            load_state(tmp_path / "start.safetensors", expected)
        assert caught.value.code == "wrong-architecture"
        return caught.value.what

    head = "1.weight"
    assert refusal(lambda s: s.pop(head)) == "tensor 1.weight is missing"
    assert refusal(lambda s: s.update(new=s[head] * 1)) == "tensor new is not in the network"
    assert refusal(lambda s: s.update({head: s[head][:, :4] * 1})) == (
        "tensor 1.weight has shape (1, 4, 1, 1), the network's (1, 8, 1, 1)"
    )
    assert refusal(lambda s: s.update({head: s[head].double()})) == (
        "tensor 1.weight is torch.float64, the network's torch.float32"
    )
    assert "NaN or infinity" in refusal(lambda s: s[head].fill_(torch.nan))
    write_bundle(tmp_path / "model", job, expected, trained={})
    rewritten(
        tmp_path / "model",
        lambda raw: raw["consortium"]["settings"]["network"].update(features=[4, 8, 32]),
    )
    with pytest.raises(Refused, match=r"wrong-architecture: tensor 0\.model"):
        load_bundle(tmp_path / "model", "cpu")


def test_a_start_model_is_read_from_a_bundle_or_a_checkpoint_and_nothing_else(tmp_path):
    job = settings()
    expected = build_network(job, 1).state_dict()
    other = build_network(job, 2).state_dict()
    write_bundle(tmp_path / "model", job, other, trained={})
    save_file(other, tmp_path / "start.safetensors")
    for path in (tmp_path / "model", tmp_path / "start.safetensors"):
        state = load_state(path, expected)
        assert list(state) == list(expected)
        assert all(torch.equal(state[name], other[name]) for name in other)
    torch.save(other, tmp_path / "start.pt")
    with pytest.raises(Refused, match="can run code"):
        load_state(tmp_path / "start.pt", expected)
    with pytest.raises(UsageError, match="missing-file"):
        load_state(tmp_path / "absent.safetensors", expected)


def datalist(channels: list[str], labels: dict[int, str]) -> Datalist:
    return Datalist(Path("hospital"), tuple(channels), {0: "background", **labels}, (), frozenset())


def test_data_of_the_same_channels_and_labels_match_the_model():
    job = settings({"labels": {"whole": [1, 2], "enhancing": [2]}})
    require_match(job, job)
    require_data(job, datalist(["t1", "Flair"], {1: "edema", 2: "Enhancing tumor"}))
    american = settings({"labels": {"tumour": [1, 2]}})
    require_data(american, datalist(["T1", "FLAIR"], {1: "Tumor"}))


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (["FLAIR", "T1"], "here are 2: FLAIR, T1"),
        (["T1", "FLAIR", "T2"], "here are 3: T1, FLAIR, T2"),
        (["T1"], "here are 1: T1"),
        (["T1", "T2"], "the model's 2 channel(s) are T1, FLAIR; here are 2: T1, T2"),
    ],
)
def test_data_of_other_channels_or_another_order_are_refused(channels, message):
    for require, other in (
        (require_data, datalist(channels, {1: "tumour"})),
        (require_match, settings({"channels": channels})),
    ):
        with pytest.raises(Refused) as caught:
            require(settings(), other)
        assert caught.value.code == "wrong-channels"
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({2: "tumour"}, "the data's value 2 (tumour) is not among the model's structures: tumour"),
        ({}, "the model's tumour has value 1, which the data lack"),
        ({1: "liver"}, "value 1 is tumour in the model, liver in the data"),
    ],
)
def test_data_of_other_labels_are_refused(labels, message):
    with pytest.raises(Refused) as caught:
        require_data(settings(), datalist(["T1", "FLAIR"], labels))
    assert caught.value.code == "wrong-labels"
    assert message in str(caught.value)


def test_a_job_of_other_labels_or_another_order_is_refused():
    two = {"core": [1], "rim": [2]}
    for other in ({"rim": [2], "core": [1]}, {"core": [1], "rim": [3]}, {"core": [1]}):
        with pytest.raises(Refused, match="wrong-labels"):
            require_match(settings({"labels": two}), settings({"labels": other}))


def test_a_model_without_the_hospitals_own_statistics_is_refused(tmp_path):
    job = settings().model_copy(update={"update": UpdateSettings(buffers="local")})
    write_bundle(tmp_path / "model", job, build_network(job).state_dict(), trained={})
    with pytest.raises(Refused, match="not-standalone"):
        load_bundle(tmp_path / "model", "cpu")


@needs_real_data
def test_a_real_patient_gets_the_same_mask_from_monai_alone(tmp_path):
    job = settings({"channels": ["pre-contrast", "FLAIR", "post-contrast"], "size": [64, 64]})
    image = sorted((JEFFERSON / "imagesTr").iterdir())[0]
    write_bundle(tmp_path / "model", job, undecided(job, image).state_dict(), trained={})
    theirs = run_with_monai(tmp_path / "model", image, tmp_path / "mask.nii.gz")
    loaded, model = load_bundle(tmp_path / "model", "cpu")
    case = load_case(loaded, image, None)
    assert np.array_equal(theirs, to_mask(predict_case(model, case, loaded, "cpu"), loaded))
    assert 0 < theirs.mean() < 1


HUGE = [
    {"features": [16384, 16384, 16384]},
    {"features": [2**40, 2**40]},
    {"features": [4, 8, 16], "residual_units": 10**9},
    {"features": [4] * 100_000},
]


@pytest.mark.parametrize("network", HUGE)
def test_metadata_that_ask_for_a_huge_network_are_refused_before_it_is_built(tmp_path, network):
    job, folder = settings(), tmp_path / "model"
    write_bundle(folder, job, build_network(job).state_dict(), trained={})
    path = folder / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["consortium"]["settings"]["network"] |= network
    path.write_text(json.dumps(metadata))
    with without_waiting(), memory_limited_to(2 << 30), pytest.raises(Refused) as refusal:
        load_bundle(folder, "cpu")
    assert refusal.value.code in ("wrong-architecture", "not-a-bundle")


@pytest.mark.parametrize("start", ["model", "weights.safetensors"])
def test_huge_weights_are_refused_before_they_are_read(tmp_path, start):
    job, folder = settings(), tmp_path / "model"
    state = build_network(job).state_dict()
    write_bundle(folder, job, state, trained={})
    file = folder / "models/model.safetensors"
    header = json.dumps(
        {"1.weight": {"dtype": "F32", "shape": [1 << 32], "data_offsets": [0, 1 << 34]}}
    )
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    os.truncate(file, 8 + len(header) + (1 << 34))
    (tmp_path / "weights.safetensors").symlink_to(file)
    with memory_limited_to(1 << 30), pytest.raises(Refused):
        load_state(tmp_path / start, state)
    with memory_limited_to(1 << 30), pytest.raises(Refused):
        load_bundle(folder, "cpu")
