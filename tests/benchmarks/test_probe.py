"""The probe on networks trained on generated X-ray images; `scripts/bench probe` runs 200."""

from scripts.benchmarks.probe import Training, trained_verdict

# 200 runs measure the rates; here each of two seeds has to be right.
SHORT = Training(steps=80)


def test_a_planted_shortcut_is_found_and_none_where_there_is_none():
    assert [trained_verdict(seed, 0.6, SHORT) for seed in (0, 1)] == ["confounded"] * 2
    assert [trained_verdict(seed, 0.0, SHORT) for seed in (0, 1)] == ["no sign"] * 2
