"""Checks that a model's channels and labels match a job or a hospital's data."""

from collections.abc import Iterable, Mapping

from consortium.core.errors import Refused
from consortium.tasks.segmentation.datalist import Datalist
from consortium.tasks.segmentation.settings import SegmentationSettings


def require_match(model: SegmentationSettings, other: SegmentationSettings, where: str) -> None:
    """Refuses a model whose channels or labels differ from a job's.

    Channels must have the same names in the same order, ignoring case; structures must have the
    same names and values in the same order.

    Raises:
        Refused: `wrong-channels` or `wrong-labels`.
    """
    _require_channels(model, other.data.channels, where)
    ours, theirs = list(model.data.labels.items()), list(other.data.labels.items())
    if ours != theirs:
        raise _wrong_labels(f"the model's labels are {dict(ours)}; here are {dict(theirs)}", where)


def require_data(model: SegmentationSettings, datalist: Datalist) -> None:
    """Refuses a model whose channels or labels differ from those of a hospital's data.

    Channels must have the same names in the same order, ignoring case. Data must have a value of
    each structure, no value that the model lacks, and no value that is another structure in the
    model. Names match if they are spelled nearly alike, or one is a part of the other.

    Raises:
        Refused: `wrong-channels` or `wrong-labels`.
    """
    _require_channels(model, datalist.channels, str(datalist.folder))
    _require_data_labels(model, datalist.labels, str(datalist.folder))


def _require_channels(model: SegmentationSettings, channels: Iterable[str], where: str) -> None:
    ours, theirs = list(model.data.channels), list(channels)
    if [name.casefold() for name in ours] != [name.casefold() for name in theirs]:
        raise Refused(
            "wrong-channels",
            f"the model's {len(ours)} channel(s) are {', '.join(ours)}; "
            f"here are {len(theirs)}: {', '.join(theirs)}",
            where,
            "give the same channels in the same order",
        )


def _require_data_labels(
    model: SegmentationSettings, labels: Mapping[int, str], where: str
) -> None:
    structures = model.data.labels
    for value, name in labels.items():
        if value and not any(value in values for values in structures.values()):
            raise _wrong_labels(
                f"the data's value {value} ({name}) is not among the model's structures: "
                f"{', '.join(structures)}",
                where,
            )
    for structure, values in structures.items():
        known = [value for value in values if value in labels]
        if not known:
            raise _wrong_labels(
                f"the model's {structure} has value {' or '.join(map(str, values))}, which the "
                "data lack",
                where,
            )
        if len(known) == 1 and not _alike(structure, labels[known[0]]):
            raise _wrong_labels(
                f"value {known[0]} is {structure} in the model, {labels[known[0]]} in the data",
                where,
            )


def _alike(first: str, second: str) -> bool:
    """Whether two names may mean the same: tumour and tumor, enhancing and Enhancing tumour."""
    left, right = (
        "".join(filter(str.isalnum, name.casefold())).replace("our", "or").replace("oe", "e")
        for name in (first, second)
    )
    return left in right or right in left


def _wrong_labels(what: str, where: str) -> Refused:
    return Refused(
        "wrong-labels",
        what,
        where,
        "use a model with these labels, or give the same structures the same names",
    )
