"""The probe on networks trained on generated X-ray images; `scripts/bench probe` runs 200."""

from scripts.benchmarks.probe import trained_verdict


def test_a_planted_shortcut_is_found_and_none_where_there_is_none():
    planted = [trained_verdict(seed, 0.6) for seed in range(4)]
    assert planted.count("confounded") >= 3
    # Two or more of four innocent networks are flagged in one set of seeds out of 70.
    innocent = [trained_verdict(seed, 0.0) for seed in range(4)]
    assert innocent.count("no sign") >= 3
