"""The options that settings take are those of the rules' own files."""

import inspect

import pytest

from consortium import aggregation
from consortium.settings.rules import RULES, options_of_all, read_rules

INFRASTRUCTURE = {"schema", "max_change", "threads", "compiled"}


@pytest.mark.parametrize("name", sorted(aggregation.RULES))
def test_a_rule_takes_the_options_that_its_file_declares_with_their_defaults(name):
    parameters = inspect.signature(aggregation.RULES[name]).parameters
    taken = {
        key: parameter.default for key, parameter in parameters.items() if key not in INFRASTRUCTURE
    }
    assert taken == {key: option.default for key, option in RULES[name].items()}


def test_the_rules_are_those_of_the_folder():
    assert set(RULES) == set(aggregation.RULES) >= {"weighted_mean", "norm_clipping", "multi_krum"}
    assert not RULES["weighted_mean"]


def test_a_file_is_a_rule_from_the_moment_that_it_declares_options(tmp_path):
    (tmp_path / "helper.py").write_text('"""No rule."""\n\nTEXT = "OPTIONS"\n')
    (tmp_path / "own.py").write_text(
        '"""A rule."""\n\nOPTIONS = {\n    "max_share": None,\n'
        '    "power": {"type": "number", "above": 0, "default": 2, "meaning": "of the norm"},\n}\n'
    )
    rules = read_rules(tmp_path)
    assert list(rules) == ["own"]
    assert (rules["own"]["power"].default, rules["own"]["max_share"].most) == (2.0, 1.0)


def test_an_option_means_the_same_in_every_rule():
    first = RULES["norm_clipping"]
    other = {"clip": first["clip"].model_copy(update={"meaning": "something else"})}
    with pytest.raises(ValueError, match=r"other\.py: another rule defines the option clip"):
        options_of_all({"norm_clipping": first, "other": other})


def test_an_option_that_is_declared_wrongly_is_named(tmp_path):
    (tmp_path / "own.py").write_text('"""A rule."""\n\nOPTIONS = {"power": {"type": "text"}}\n')
    with pytest.raises(ValueError, match="type"):
        read_rules(tmp_path)
