"""The fictitious hospitals of the demo, with their patients and scanners.

The hospitals differ in everything that makes a federated model hard to train: size, scanners,
referred patients and appearance of tumours.
"""

from dataclasses import dataclass

from consortium.synthetic.scanner import Scanner
from consortium.synthetic.tumour import Growth


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """A hospital, its patients and its scanners.

    Attributes:
        name: name of its folder, and prefix of its patients' ids.
        patients: number of patients.
        held_out: number of further patients that `dataset.json` lists for validation; if 0, a hash
            of the patient's id decides who validates.
        scanners: the scanners; each patient is scanned on one of them, drawn uniformly.
        growth: appearance of its patients' tumours.
        age: age of the youngest and the oldest patient, years.
        women: share of women among the patients.
    """

    name: str
    patients: int
    held_out: int = 0
    scanners: tuple[Scanner, ...]
    growth: Growth
    age: tuple[int, int]
    women: float


HOSPITALS = (
    # A university hospital: new scanners, tumours of every kind.
    Hospital(
        name="north",
        patients=28,
        held_out=8,
        scanners=(
            Scanner(
                name="north 3 T A",
                field_of_view=224,
                coverage=120,
                orientation="RAS",
                gain=(87, 93, 83, 90),
                gamma=(1.0, 1.0, 1.0, 1.0),
                sharpness=0.9,
                bias=0.14,
                noise=0.02,
            ),
            Scanner(
                name="north 1.5 T",
                field_of_view=230,
                coverage=120,
                orientation="RAS",
                gain=(73, 67, 77, 70),
                gamma=(0.95, 1.0, 0.95, 1.0),
                sharpness=1.2,
                bias=0.08,
                noise=0.03,
            ),
        ),
        growth=Growth(
            radius=21, spread=0.3, core=(0.4, 0.7), enhancing=0.7, oedema=1.0, uptake=1.0
        ),
        age=(22, 80),
        women=0.5,
    ),
    # A busy general hospital: large tumours, seen late; flat contrast.
    Hospital(
        name="harbour",
        patients=15,
        held_out=8,
        scanners=(
            Scanner(
                name="harbour 1.5 T",
                field_of_view=236,
                coverage=126,
                orientation="LPS",
                gain=(53, 70, 57, 62),
                gamma=(0.8, 0.85, 0.8, 0.85),
                sharpness=1.5,
                bias=0.12,
                noise=0.032,
            ),
        ),
        growth=Growth(
            radius=23, spread=0.25, core=(0.5, 0.75), enhancing=0.85, oedema=0.85, uptake=0.8
        ),
        age=(45, 86),
        women=0.45,
    ),
    # A regional hospital with an old scanner: noise, blur and a strong bias field.
    Hospital(
        name="valley",
        patients=8,
        held_out=8,
        scanners=(
            Scanner(
                name="valley 1 T",
                field_of_view=240,
                coverage=120,
                orientation="RAS",
                gain=(63, 50, 60, 55),
                gamma=(1.0, 0.9, 0.9, 0.95),
                sharpness=1.8,
                bias=0.28,
                noise=0.05,
            ),
        ),
        growth=Growth(
            radius=20, spread=0.25, core=(0.35, 0.6), enhancing=0.6, oedema=0.9, uptake=0.9
        ),
        age=(30, 82),
        women=0.55,
    ),
    # A clinic without a scanner: few patients, who bring scans from several practices. Their
    # tumours are found early, when they are small and faint.
    Hospital(
        name="hillside",
        patients=6,
        held_out=8,
        scanners=(
            Scanner(
                name="hillside practice A 3 T",
                field_of_view=220,
                coverage=114,
                orientation="LPS",
                gain=(80, 100, 80, 95),
                gamma=(1.25, 1.2, 1.25, 1.2),
                sharpness=0.8,
                bias=0.15,
                noise=0.03,
            ),
            Scanner(
                name="hillside practice B 1.5 T",
                field_of_view=232,
                coverage=120,
                orientation="LPS",
                gain=(57, 60, 57, 58),
                gamma=(0.75, 0.85, 0.8, 0.8),
                sharpness=1.4,
                bias=0.2,
                noise=0.03,
            ),
            Scanner(
                name="hillside practice C 1 T",
                field_of_view=238,
                coverage=126,
                orientation="RAS",
                gain=(67, 53, 63, 60),
                gamma=(1.0, 0.95, 0.9, 0.95),
                sharpness=1.7,
                bias=0.3,
                noise=0.045,
            ),
        ),
        growth=Growth(
            radius=18, spread=0.3, core=(0.4, 0.65), enhancing=0.6, oedema=0.9, uptake=0.85
        ),
        age=(20, 78),
        women=0.6,
    ),
)
