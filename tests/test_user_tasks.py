"""A harness task's generation settings are kept, or refused by name."""

import pytest
from steering import some_bundle
from tiny import tiny_model

from fasb.errors import ConfigError
from fasb.user.tasks import FREE, HONOURED, NEUTRAL, TOKENS, with_generation


@pytest.fixture(scope="module")
def bundle():
    return some_bundle(tiny_model(), tokens=8)


def test_a_tasks_settings_are_the_texts(bundle):
    found = with_generation(bundle, {"until": ["\n", ""], "max_gen_toks": 7}, 3)
    assert found.prompt.stop == ("\n",)
    decoding = found.decoding
    assert (decoding.tokens, decoding.batch, decoding.temperature) == (7, 3, 0.0)
    drawn = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "until": "Q:"}
    found = with_generation(bundle, drawn, 1)
    assert (found.decoding.temperature, found.decoding.top_p) == (0.7, 0.9)
    assert (found.decoding.tokens, found.prompt.stop) == (TOKENS, ("Q:",))
    assert with_generation(bundle, {}, 1).policy == bundle.policy


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_completion_tokens"])
def test_every_name_of_the_length_counts(bundle, name):
    assert with_generation(bundle, {name: 5}, 1).decoding.tokens == 5


def test_where_nothing_is_drawn_the_ways_of_drawing_do_nothing(bundle):
    given = {"do_sample": False, "temperature": 0.8, "top_p": 0.5, "top_k": 40, "min_p": 0.1}
    found = with_generation(bundle, given, 1).decoding
    assert (found.temperature, found.top_p) == (0.0, 1.0)


@pytest.mark.parametrize("key", sorted(NEUTRAL))
def test_what_steering_cannot_keep_is_refused_by_name(bundle, key):
    drawn = {"do_sample": True, "temperature": 1}
    with_generation(bundle, {**drawn, key: NEUTRAL[key]}, 1)
    value = 0.5 if NEUTRAL[key] in (0, 1) else [5]
    with pytest.raises(ConfigError, match=rf"generation_kwargs\.{key}: .* cannot keep; leave it"):
        with_generation(bundle, {**drawn, key: value}, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temprature": 0.5}, r"temprature: unknown; did you mean .temperature"),
        ({"max_gen_toks": 0}, r"tokens: .* greater than or equal to 1"),
        ({"max_gen_toks": "many"}, r"tokens: "),
        ({"do_sample": "yes"}, r"do_sample: 'yes'; give true or false"),
        ({"do_sample": True, "temperature": -1}, r"temperature: "),
        ({"do_sample": True, "temperature": 1, "top_p": 0}, r"top_p: "),
        ({"do_sample": True}, r"temperature: None; give one above 0, or no do_sample"),
        ({"do_sample": True, "temperature": 0.0}, r"temperature: 0\.0; give one above 0"),
        ({"until": [3]}, r"until: \[3\]; give a text"),
    ],
)
def test_a_wrong_value_is_one_line(bundle, given, message):
    with pytest.raises(ConfigError, match=rf"generation_kwargs\.{message}") as caught:
        with_generation(bundle, given, 1)
    assert "\n" not in str(caught.value)


def test_what_changes_no_text_is_taken(bundle):
    found = with_generation(bundle, dict.fromkeys(FREE, 1), 1)
    assert found.decoding.tokens == TOKENS
    assert not set(FREE) & {*HONOURED, *NEUTRAL}
