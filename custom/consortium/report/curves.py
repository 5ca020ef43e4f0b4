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

from consortium.imaging.pictures import Picture
from consortium.report.comparison import pool
from consortium.report.figures import figures_of, value_of
from consortium.settings.base import Settings
from consortium.tasks.registry import text_of_task

GLOBAL = "global"
_COMPARED = ("local", "centralised")
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
        settings: of the job.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[Mapping[str, Any]],
        settings: Settings,
    ):
        self._folder, self._spec = folder, settings.scored
        self._words = text_of_task(settings.task)
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

        The hyper-parameters stand with the headline score over all patients of the model that the
        run leaves and, where every hospital let them out, of those it is compared with.

        Args:
            result: content of `result.json`.
            final: `metrics` by hospital and `score` over all.
        """
        self._add_scores(final["metrics"], final["score"], result["rounds"])
        headline = self._words.tag[1]
        means = pool(result["hospitals"], self._spec).values
        for model in _COMPARED:
            for row in result["hospitals"]:
                score = row.get(model)
                for figure, value in self._told(score).items():
                    self._add_level(row["name"], model, figure, value, result["rounds"])
            self._add_level(GLOBAL, model, headline, means.get(model), result["rounds"])
        settings = result["settings"]
        chosen = {"rounds": settings["rounds"], "seed": settings["seed"]}
        for section, names in _HYPER_PARAMETERS.items():
            known = settings[section]
            chosen |= {f"{section}.{name}": known[name] for name in names if name in known}
        results = {f"hparam/{self._words.key}_{model}": value for model, value in means.items()}
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
        group, headline = self._words.tag
        for name, said in metrics.items():
            for figure, value in self._told(said["validation"]).items():
                self._add(name, f"{group}/{figure}", value, model)
        self._add(GLOBAL, f"{group}/{headline}", score, model)

    def _told(self, score: Mapping[str, Any] | None) -> dict[str, float | None]:
        """The figures of a score and its headline, which may be one of them."""
        return {**figures_of(score), self._words.tag[1]: value_of(score, self._spec)}

    def _add_level(
        self, name: str, model: str, figure: str, value: float | None, last: int
    ) -> None:
        for step in (0, last):
            self._add(f"{name}/{model}", f"{self._words.tag[0]}/{figure}", value, step)

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
