"""Federations in this process, whose orchestrator tests kill and start again."""

from pathlib import Path

from consortium.core.site_policy import Site, simulated_privacy
from consortium.protocol import requests
from consortium.runs.in_process import InProcessFederation, study_of

OPEN = simulated_privacy(1)
"""For generated patients, whose columns every job may read."""
NAMES = ("harbour", "north", "valley")


class Federation:
    """Hospitals that stay, and an orchestrator that comes and goes."""

    def __init__(
        self, data, folder, settings, names=NAMES, smallest_group=1, smallest_training=1, **quorum
    ):
        self.data, self.folder, self.settings = data, folder, settings
        self.names, self.smallest_group, self.quorum = names, smallest_group, quorum
        self.privacy = simulated_privacy(smallest_training)
        self.spoil = lambda name, answer: answer
        self.start()

    def start(self):
        """A new orchestrator, which goes on from the checkpoints."""
        self.federation = InProcessFederation(
            study_of(self.settings, self.names, **self.quorum),
            [
                Site(
                    name,
                    Path(self.data) / name,
                    self.folder / "state" / name,
                    smallest_group=self.smallest_group,
                    privacy=self.privacy,
                )
                for name in self.names
            ],
            results=self.folder / "results",
            checkpoints=self.folder / "checkpoints",
            workers=1,
            tamper=lambda name, answer: self.spoil(name, answer),
        )
        self.run, self.evaluations = self.federation.run, self.federation.evaluations

    @property
    def state(self):
        return self.run.state

    def answers(self, request, model, names=None, **meta):
        """What hospitals answer to a request, by name."""
        answers = {}
        names = self.names if names is None else names
        self.federation.ask(request, model, names, answers.__setitem__, **meta)
        return answers

    def open(self, names=None):
        """Opens a round and asks hospitals; their answers are submitted."""
        number, _ = self.run.open_round()
        names = self.run.asked if names is None else names
        answers = self.answers(requests.TRAIN, self.state.model, names, round=number)
        return {name: self.run.submit(answer) for name, answer in answers.items()}

    def round(self, spoil=None, names=None):
        """One whole round, whatever is refused."""
        if spoil is not None:
            self.spoil = lambda name, answer: spoil(answer)
        self.open(names)
        self.spoil = lambda name, answer: answer
        return self.run.close_round()

    def rest(self):
        """The rounds that are not done, the evaluations and the results."""
        self.federation.train()
        self.federation.evaluate()
        return self.finish()

    def finish(self, trouble=""):
        """The results."""
        return self.federation.finish(trouble)
