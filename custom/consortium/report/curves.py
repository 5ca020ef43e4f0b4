"""The curves of a run for TensorBoard: a folder a hospital and one for all of them, `global`.

They are a function of the round records: a writer that is opened for a resumed run writes them
anew, so no point is there twice and none of an unfinished round. A model's score stands at the
number of rounds behind the model, everything else at the number of the round, from 1. The models
that the shared one is compared with have a folder below the hospital's, `alone` and `pooled`, so
that TensorBoard draws them as level lines through the curve.
"""

import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from consortium.report.comparison import mean_dice, pool
from consortium.report.pictures import Picture

GLOBAL = "global"
_COMPARED = ("alone", "pooled")
_HYPER_PARAMETERS = {
    "network": ("name", "normalisation", "residual_units", "dropout"),
    "training": ("local_steps", "batch", "learning_rate", "weight_decay"),
    "update": ("buffers",),
    "selection": ("keep",),
}


class CurveWriter:
    """Writes the curves of one run.

    Args:
        folder: replaced by what is written now.
        records: rounds that are closed already, as in `rounds.jsonl`.
    """

    def __init__(self, folder: Path, records: Sequence[Mapping[str, Any]] = ()):
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}
        shutil.rmtree(folder, ignore_errors=True)
        for record in records:
            self.round(record)

    def round(self, record: Mapping[str, Any]) -> None:
        """Adds a closed round; it is on disk when this returns."""
        number = record["round"] + 1
        for name, metrics in record["metrics"].items():
            self._add(name, "training/loss", metrics["loss"], number)
            self._add(name, "training/seconds", metrics["seconds"], number)
            self._add(name, "training/cases", record["cases"][name], number)
        self._add_scores(record["metrics"], record["score"], record["round"])
        for what in ("answered", "refused", "late", "lost"):
            self._add(GLOBAL, f"hospitals/{what}", len(record[what]), number)
        self._flush()

    def finish(self, result: Mapping[str, Any], final: Mapping[str, Any]) -> None:
        """Adds the scores of the last model, of what it is compared with, and hyper-parameters.

        The hyper-parameters stand with the mean Dice over all patients of the model that the run
        leaves and, where every hospital let them out, of those it is compared with.

        Args:
            result: content of `result.json`.
            final: `metrics` by hospital and `score` over all.
        """
        self._add_scores(final["metrics"], final["score"], result["rounds"])
        means = pool(result["hospitals"]).dice
        for model in _COMPARED:
            for row in result["hospitals"]:
                score = row.get(model)
                for structure in (score["dice"] or {}) if score else {}:
                    value = mean_dice(score, structure)
                    self._add_level(row["name"], model, structure, value, result["rounds"])
                self._add_level(row["name"], model, "mean", mean_dice(score), result["rounds"])
            self._add_level(GLOBAL, model, "mean", means.get(model), result["rounds"])
        settings = result["settings"]
        chosen = {"rounds": settings["rounds"], "seed": settings["seed"]}
        for section, names in _HYPER_PARAMETERS.items():
            chosen |= {f"{section}.{name}": settings[section][name] for name in names}
        results = {f"hparam/dice_{model}": value for model, value in means.items()}
        if results:
            for summary in hparams(chosen, results):
                self._writer(GLOBAL).file_writer.add_summary(summary)
            for tag, value in results.items():
                self._add(GLOBAL, tag, value, result["rounds"])
        self._flush()

    def close(self) -> None:
        """Ends the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _add_scores(
        self, metrics: Mapping[str, Mapping[str, Any]], score: float | None, model: int
    ) -> None:
        for name, said in metrics.items():
            dice = (said["validation"] or {}).get("dice") or {}
            for structure, value in dice.items():
                self._add(name, f"dice_validation/{structure}", value, model)
            self._add(name, "dice_validation/mean", mean_dice(said["validation"]), model)
        self._add(GLOBAL, "dice_validation/mean", score, model)

    def _add_level(
        self, name: str, model: str, structure: str, value: float | None, last: int
    ) -> None:
        for step in (0, last):
            self._add(f"{name}/{model}", f"dice_validation/{structure}", value, step)

    def _add(self, name: str, tag: str, value: float | None, step: int) -> None:
        if value is not None:
            self._writer(name).add_scalar(tag, value, step)

    def _writer(self, name: str) -> SummaryWriter:
        if name not in self._writers:
            self._writers[name] = SummaryWriter(str(self._folder / name))
        return self._writers[name]

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()


def write_pictures(folder: Path, pictures: Sequence[Picture], step: int) -> None:
    """Puts the page's pictures beside a run's curves, to the byte, under `pictures/<hospital>`.

    Args:
        folder: of the run's curves. What it holds stays, but for former pictures.
        pictures: of generated scans only.
        step: rounds behind the model that drew them.
    """
    where = folder / GLOBAL / "pictures"
    shutil.rmtree(where, ignore_errors=True)
    with SummaryWriter(str(where)) as writer:
        for picture in pictures:
            width, height = struct.unpack(">II", picture.png[16:24])  # of the PNG's first chunk
            image = Summary.Image(
                width=width, height=height, colorspace=3, encoded_image_string=picture.png
            )
            value = Summary.Value(tag=f"pictures/{picture.hospital}", image=image)
            writer.file_writer.add_summary(Summary(value=[value]), step)
