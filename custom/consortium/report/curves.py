"""The curves of a run for TensorBoard: a folder a hospital and one for all of them, `global`.

They are a function of the round records: a writer that is opened for a resumed run writes them
anew, so no point is there twice and none of an unfinished round. A model's score stands at the
number of rounds behind the model, everything else at the number of the round, from 1.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

GLOBAL = "global"
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
        """Adds the scores of the last model, and the hyper-parameters with its score.

        Args:
            result: content of `result.json`.
            final: `metrics` by hospital and `score` over all.
        """
        self._add_scores(final["metrics"], final["score"], result["rounds"])
        settings = result["settings"]
        chosen = {"rounds": settings["rounds"], "seed": settings["seed"]}
        for section, names in _HYPER_PARAMETERS.items():
            chosen |= {f"{section}.{name}": settings[section][name] for name in names}
        if final["score"] is not None:
            results = {"hparam/dice_validation": final["score"]}
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
            if dice:
                self._add(name, "dice_validation/mean", sum(dice.values()) / len(dice), model)
        self._add(GLOBAL, "dice_validation/mean", score, model)

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
