"""Writes the curves of a run for TensorBoard: a folder for each hospital and one for all, `global`.

The curves are a function of the round records. A writer that is opened for a resumed run writes
them again, so no point is there twice and none of an unfinished round. A model's score has the
number of rounds that the model was trained for as its step; everything else has the number of the
round, from 1. The local and the centralised model have folders `local` and `centralised` below the
hospital's, so that TensorBoard draws them as level lines through the curve. TensorBoard's own
writer makes the files; nothing here needs torch.
"""

import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from consortium.imaging.pictures import Picture
from consortium.report.comparison import average_scores
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


class EventWriter:
    """One folder's event file.

    Args:
        folder: created if it is missing.
    """

    def __init__(self, folder: Path):
        self._file = EventFileWriter(str(folder))

    def add(self, summary: Summary, step: int = 0) -> None:
        """Adds an event with the current time."""
        self._file.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Writes the added events to disk."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class CurveWriter:
    """Writes the curves of one run.

    Args:
        folder: the folder of the curves; its former content is deleted.
        records: rounds that are already closed, as in `rounds.jsonl`.
        settings: the job's settings.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[Mapping[str, Any]],
        settings: Settings,
    ):
        self._folder, self._spec = folder, settings.scored
        self._text = text_of_task(settings.task)
        self._writers: dict[str, EventWriter] = {}
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
        for state in ("answered", "refused", "late", "lost"):
            self._add(GLOBAL, f"hospitals/{state}", len(record[state]), number)
        self._flush()

    def finish(self, result: Mapping[str, Any], final: Mapping[str, Any]) -> None:
        """Adds the scores of the final model and of its comparisons, and the hyper-parameters.

        The hyper-parameters go with the headline score over all patients, for the final model and,
        if every hospital reported them, for the local and centralised models.

        Args:
            result: content of `result.json`.
            final: `metrics` by hospital and `score` over all.
        """
        self._add_scores(final["metrics"], final["score"], result["rounds"])
        headline = self._text.tag[1]
        means = average_scores(result["hospitals"], self._spec).values
        for model in _COMPARED:
            for row in result["hospitals"]:
                score = row.get(model)
                for figure, value in self._figures(score).items():
                    self._add_level(row["name"], model, figure, value, result["rounds"])
            self._add_level(GLOBAL, model, headline, means.get(model), result["rounds"])
        settings = result["settings"]
        chosen = {"rounds": settings["rounds"], "seed": settings["seed"]}
        for section, names in _HYPER_PARAMETERS.items():
            values = settings[section]
            chosen |= {f"{section}.{name}": values[name] for name in names if name in values}
        results = {f"hparam/{self._text.key}_{model}": value for model, value in means.items()}
        if results:
            for summary in _hyper_parameters(chosen, results):
                self._writer(GLOBAL).add(summary)
            for tag, value in results.items():
                self._add(GLOBAL, tag, value, result["rounds"])
        self._flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _add_scores(
        self, metrics: Mapping[str, Mapping[str, Any]], score: float | None, model: int
    ) -> None:
        group, headline = self._text.tag
        for name, reported in metrics.items():
            for figure, value in self._figures(reported["validation"]).items():
                self._add(name, f"{group}/{figure}", value, model)
        self._add(GLOBAL, f"{group}/{headline}", score, model)

    def _figures(self, score: Mapping[str, Any] | None) -> dict[str, float | None]:
        """A score's figures and its headline, which may be one of them."""
        return {**figures_of(score), self._text.tag[1]: value_of(score, self._spec)}

    def _add_level(
        self, name: str, model: str, figure: str, value: float | None, last: int
    ) -> None:
        for step in (0, last):
            self._add(f"{name}/{model}", f"{self._text.tag[0]}/{figure}", value, step)

    def _add(self, name: str, tag: str, value: float | None, step: int) -> None:
        if value is not None:
            scalar = Summary.Value(tag=tag, simple_value=float(value))
            self._writer(name).add(Summary(value=[scalar]), step)

    def _writer(self, name: str) -> EventWriter:
        if name not in self._writers:
            self._writers[name] = EventWriter(self._folder / name)
        return self._writers[name]

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()


def write_pictures(folder: Path, pictures: Sequence[Picture], step: int) -> None:
    """Adds the page's pictures, unchanged, to a run's curves as `pictures/<hospital>`.

    Args:
        folder: the folder of the run's curves; only former pictures are deleted.
        pictures: pictures of generated scans only.
        step: number of rounds that the model was trained for.
    """
    events = folder / GLOBAL / "pictures"
    shutil.rmtree(events, ignore_errors=True)
    writer = EventWriter(events)
    for picture in pictures:
        width, height = struct.unpack(">II", picture.png[16:24])  # of the PNG's first chunk
        image = Summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=picture.png
        )
        value = Summary.Value(tag=f"pictures/{picture.hospital}", image=image)
        writer.add(Summary(value=[value]), step)
    writer.close()


def _hyper_parameters(chosen: Mapping[str, Any], results: Mapping[str, float]) -> list[Summary]:
    """Summaries for TensorBoard's table of hyper-parameters: the experiment, its start and end.

    Args:
        chosen: numbers, switches and texts by name; None is left out.
        results: the scalars that the table shows, by tag.

    Raises:
        ValueError: a value has another type.
    """
    start, infos = plugin_data_pb2.SessionStartInfo(), []
    for name, value in chosen.items():
        if isinstance(value, int | float):
            start.hparams[name].number_value = value
            kind = api_pb2.DATA_TYPE_FLOAT64
        elif isinstance(value, str):
            start.hparams[name].string_value = value
            kind = api_pb2.DATA_TYPE_STRING
        elif value is None:
            continue
        else:
            raise ValueError(f"{name} is not a number, switch or text")
        infos.append(api_pb2.HParamInfo(name=name, type=kind))
    experiment = api_pb2.Experiment(
        hparam_infos=infos,
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in results],
    )
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    return [
        _plugin_data(metadata.EXPERIMENT_TAG, experiment=experiment),
        _plugin_data(metadata.SESSION_START_INFO_TAG, session_start_info=start),
        _plugin_data(metadata.SESSION_END_INFO_TAG, session_end_info=end),
    ]


def _plugin_data(tag: str, **content: Any) -> Summary:
    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString()
    )
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
