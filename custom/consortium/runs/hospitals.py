"""Hospitals that answer in this process; `consortium.runs.processes` is for several processes.

A hospital and the run exchange what they exchange in a federation: flat buffers and plain values,
compressed if the job asks for it, or a failure's code. Invariants: every request is answered; an
error's text is only in the hospital's `errors.log`; the answers are the same bytes for any number
of processes.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from consortium.client.trainer import LocalTrainer, Progress
from consortium.core.errors import (
    Failure,
    Refused,
    UsageError,
    failure_from_wire,
    failure_of,
)
from consortium.core.files import replace_file
from consortium.core.site_policy import Site, note_error
from consortium.protocol import requests
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.requests import call_of
from consortium.protocol.update import Update, UpdateRefused, update_from_wire, update_to_wire
from consortium.settings.base import Settings

Answer = Update | UpdateRefused | Metrics | Failure
Message = tuple[Any, ...]
"""`("update", buffers, plain)`, `("metrics", plain)` or `("failure", plain)`."""
Take = Callable[[str, Any], object]
OpenTrainer = Callable[[Site, Settings, Callable[[Progress], None]], LocalTrainer]

_INTERVAL = 0.5  # seconds between two writes of a progress file


def open_trainer(
    site: Site, settings: Settings, report: Callable[[Progress], None]
) -> LocalTrainer:
    """Opens the trainer of a hospital, on this machine's GPU if it has one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LocalTrainer(site, settings, device=device, report=report)


class HospitalPool(Protocol):
    """Sends requests to hospitals and receives their answers."""

    def ask(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Take,
        **meta: int,
    ) -> None:
        """Sends one request; see `consortium.server.evaluations.Ask`."""

    def close(self) -> None:
        """Ends the processes, if any; safe to call twice."""


class Hospital:
    """Answers for one hospital, whose trainer is opened at the first request."""

    def __init__(self, site: Site, settings: Settings, open_trainer: OpenTrainer):
        self.site, self._settings, self._open_trainer = site, settings, open_trainer
        self._trainer: LocalTrainer | None = None
        self._progress = _ProgressFile(site.state / "progress.json")
        self.tick: Callable[[], None] = lambda: None

    def answer(self, request: str, model: Mapping[str, Tensor], meta: Mapping[str, int]) -> Message:
        """Answers a request; an error is answered with its code."""
        try:
            return self._answer(request, model, meta)
        except Exception as error:  # as in a federation, so that no round waits for this hospital
            note_error(self.site.state, error)
            return ("failure", {"code": failure_of(error, self.site.name).code})

    def _answer(
        self, request: str, model: Mapping[str, Tensor], meta: Mapping[str, int]
    ) -> Message:
        if request == requests.LOCAL_MODEL and not self.site.share_local_model:
            raise Refused(
                "not-shared", "this hospital does not share its model", request, "ask the hospital"
            )
        call = call_of(request, meta)
        if call is None:
            raise UsageError("unknown-request", "no such request", request)
        if self._trainer is None:
            self._trainer = self._open_trainer(self.site, self._settings, self._report)
        method, arguments = call
        answer = getattr(self._trainer, method)(model, **arguments)
        if not isinstance(answer, Update):
            return ("metrics", answer.model_dump())
        sent = update_to_wire(answer)
        return ("update", *_pipeline_of(self._settings, request).client(*sent, self.site.state))

    def _report(self, progress: Progress) -> None:
        self._progress.write(progress)
        self.tick()


class _ProgressFile:
    """Progress of a hospital, for people; written at every new stage and every `_INTERVAL`."""

    def __init__(self, path: Path):
        self._path = path
        self._stage, self._written = "", 0.0

    def write(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self._stage and now - self._written < _INTERVAL:
            return
        self._stage, self._written = progress.stage, now
        content = {
            "stage": progress.stage,
            "round": progress.round,
            "rounds": progress.rounds,
            "step": progress.step,
            "steps": progress.steps,
            "process": os.getpid(),
        }
        text = json.dumps(content)
        replace_file(self._path, lambda partial_path: partial_path.write_text(text), flush=False)


def _pipeline_of(settings: Settings, request: str) -> Pipeline:
    """Returns the steps of an update's pipeline; the training without a hospital keeps no state."""
    pipeline = build_pipeline(settings.update)
    return pipeline.without_state() if request == requests.WITHOUT else pipeline


def receive(settings: Settings, request: str, name: str, message: Message) -> Answer:
    """Decodes a hospital's message as the orchestrator does."""
    match message:
        case ("update", buffers, plain):
            try:
                received = _pipeline_of(settings, request).server(buffers, plain)
                return update_from_wire(*received, name)
            except UpdateRefused as refusal:
                return refusal
            except ValueError:
                return UpdateRefused(name, "malformed")
        case ("metrics", plain):
            try:
                return Metrics.model_validate(plain)
            except ValidationError:
                return Failure(name, "malformed")
    return failure_from_wire(message[1], name)


class SerialPool:
    """Runs every hospital in this process, one after the other."""

    def __init__(self, hospitals: Sequence[Hospital], settings: Settings, tick: Callable[[], None]):
        self._settings, self._tick = settings, tick
        self._hospitals = {hospital.site.name: hospital for hospital in hospitals}
        for hospital in hospitals:
            hospital.tick = tick
        self._threads = torch.get_num_threads()

    def ask(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Take,
        **meta: int,
    ) -> None:
        """See `HospitalPool`."""
        torch.set_num_threads(1)  # as in a forked process, for the same bytes
        try:
            for name in targets:
                message = self._hospitals[name].answer(request, model, meta)
                take(name, receive(self._settings, request, name, message))
                self._tick()
        finally:
            torch.set_num_threads(self._threads)

    def close(self) -> None:
        """Forgets the hospitals."""
        self._hospitals = {}
