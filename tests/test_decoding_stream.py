"""A stream tells the tokens of `decode`, one by one, and what is taken back of them."""

from dataclasses import replace

import pytest
from steering import placed, some_bundle, some_prompts
from tiny import tiny_model

from fasb.decoding.decode import decode, decode_live
from fasb.decoding.stream import stream
from fasb.errors import BundleError, DataError
from fasb.settings import PromptSettings
from fasb.steering.edit import Edit

PROMPTS = some_prompts(13, seed=4)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("edit", ["persistent", "transient"])
@pytest.mark.parametrize("judged", ["newest", "previous"])
@pytest.mark.parametrize("when", ["token", "prompt", "always", "never"])
def test_a_stream_tells_what_live_gives(model, when, judged, edit):
    bundle, prompts = some_bundle(model, edit=edit, when=when, judged=judged), PROMPTS[:6]
    answers = decode_live(model, prompts, bundle)
    for i, prompt in enumerate(prompts):
        *events, done = stream(model, prompt, bundle)
        pieces, steered = [], False
        for event in events:
            if event.kind == "back":
                steered = True
                assert event.text == "".join(pieces[len(pieces) - event.dropped :])
                assert event.strength == pytest.approx(answers.decision.strength[i], abs=1e-9)
                pieces = pieces[: len(pieces) - event.dropped]
                assert len(pieces) == answers.decision.kept[i]
            else:
                assert event.kind == "token"
                assert event.steered == steered
                pieces.append(event.text)
        assert done.kind == "done"
        assert done.steered == steered == answers.decision.fired[i]
        assert len(pieces) == answers.after.length[i]
        assert "".join(pieces) == model.decode(answers.after.rows()[i])


@pytest.mark.parametrize("positions", ["from_answer", "prompt_end", "scheduled", "all"])
def test_a_step_back_tells_the_strength_of_what_follows_wherever_the_edit_is(model, positions):
    bundle = some_bundle(model)
    bundle = replace(bundle, edit=Edit(bundle.edit.changes, placed(positions)))
    strengths = decode_live(model, PROMPTS, bundle).decision
    for i, prompt in enumerate(PROMPTS):
        told = [event.strength for event in stream(model, prompt, bundle) if event.kind == "back"]
        assert told == pytest.approx([strengths.strength[i]] * int(strengths.fired[i]), abs=1e-9)
    assert (strengths.kept[strengths.fired] > 0).any()


def test_a_stream_tells_p_of_each_token(model):
    bundle = some_bundle(model, beta=1.0)
    answers = decode(model, PROMPTS[:1], bundle)
    told = [event.p for event in stream(model, PROMPTS[0], bundle) if event.kind == "token"]
    assert told == pytest.approx(answers.before.p[0, 1 : len(told) + 1].tolist(), abs=1e-9)


def test_the_last_event_is_the_cleaned_answer(model):
    bundle = replace(some_bundle(model), prompt=PromptSettings(stop=("e",)))
    for prompt in PROMPTS:
        done = list(stream(model, prompt, bundle))[-1]
        assert "e" not in done.text
        assert done.text == done.text.strip()


def test_a_bundle_of_another_model_is_refused_before_the_first_event(model):
    other = tiny_model(seed=1)
    with pytest.raises(BundleError, match="weights differ"):
        stream(other, PROMPTS[0], some_bundle(model))
    *_, done = stream(other, PROMPTS[0], some_bundle(model), siblings=True)
    assert done.kind == "done"


def test_a_prompt_that_is_none_is_refused_before_the_first_event(model):
    with pytest.raises(DataError, match=r"^prompt 1: no token to go on from"):
        stream(model, [], some_bundle(model))
    with pytest.raises(DataError, match=r"^prompt 1: token 160, but the model knows 0 to 159"):
        stream(model, [0, 160], some_bundle(model))
