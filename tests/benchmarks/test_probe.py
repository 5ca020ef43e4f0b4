"""The probe on networks that were trained on generated X-rays; `scripts/bench probe` counts 200."""

from scripts.benchmarks.probe import trained_verdict


def test_a_planted_shortcut_is_found_and_none_where_there_is_none():
    planted = [trained_verdict(seed, 0.6) for seed in range(4)]
    assert planted.count("confounded") >= 3
    # Of four innocent networks two or more are accused in one set of seeds out of 70.
    innocent = [trained_verdict(seed, 0.0) for seed in range(4)]
    assert innocent.count("no sign") >= 3
