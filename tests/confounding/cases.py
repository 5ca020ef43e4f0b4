"""Statistics of invented hospitals, for the confounding probe."""

from collections.abc import Sequence

import numpy as np

from consortium.confounding.moments import Group, Moments, collect

LABELS = ("covid", "normal", "pneumonia")


SIZES = ((60, 15, 12), (20, 50, 14), (12, 14, 60), (30, 0, 0))


SHARES = {
    f"h{number}": {label: size for label, size in zip(LABELS, sizes, strict=True) if size}
    for number, sizes in enumerate(SIZES)
}


class Cases:
    """Held-out patients whose scores follow the label frequencies by a slope, with heavy tails."""

    def __init__(self, seed: int, slope: float = 0.0, sizes: Sequence[Sequence[int]] = SIZES):
        rng = np.random.default_rng(seed)
        hospitals, labels, values = [], [], []
        for number, counts in enumerate(sizes):
            for index, count in enumerate(counts):
                scores = rng.standard_t(4, size=(count, len(LABELS)))
                scores[:, index] += 2
                values.append(scores + slope * np.array(counts) / sum(counts))
                hospitals += [f"h{number}"] * count
                labels += [LABELS[index]] * count
        self.values = np.concatenate(values)
        self.hospitals, self.labels = np.array(hospitals), np.array(labels)

    def groups(self) -> dict[Group, Moments]:
        return collect(self.values, self.hospitals, self.labels, range(len(self.labels)), 10)

    def permute(self, rng: np.random.Generator) -> None:
        """Exchanges hospitals' names among the patients of a label."""
        for label in LABELS:
            where = self.labels == label
            self.hospitals[where] = rng.permutation(self.hospitals[where])
