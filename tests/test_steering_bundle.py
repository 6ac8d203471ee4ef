"""A bundle is one file that gives the same method back, and other models are refused."""

from dataclasses import replace

import pytest
import torch
from steering import placed

from fasb.artifacts import read_tensors, write_tensors
from fasb.errors import BundleError, ConfigError
from fasb.settings import DecodingSettings, PromptSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Active, Change, Edit
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.operations import Add, Remove, Scale
from fasb.steering.policy import Policy
from fasb.steering.serialize import edit_layout, edit_tensors, read_edit
from fasb.steering.tracker import Cosine, Logistic, Network, Platt, Projection, Tracker

MODEL = Fingerprint("llama", 2, 4, 3, "abc", hidden=12)
AT = torch.tensor([[0, 1], [1, 3]])
SCORES = {
    "logistic": lambda: Logistic(torch.randn(2, 3), torch.randn(2)),
    "cosine": lambda: Cosine(torch.randn(2, 3), torch.randn(2, 3)),
    "projection": lambda: Projection(torch.randn(2, 3)),
    "network": lambda: Network(*map(torch.randn, ((2, 4, 3), (2, 4), (2, 4), (2,)))),
}


def bundle(score: str = "logistic", positions="from_answer") -> Bundle:
    """A bundle of two changes, of two sites and two operations."""
    layers = torch.tensor([[1, 0], [0, 0]])
    changes = (
        Change("head", AT, Add(torch.randn(2, 3))),
        Change("residual", layers, Remove(torch.randn(2, 12))),
        Change("mlp", layers[:1], Scale(torch.randn(1, 12))),
    )
    return Bundle(
        Policy(alpha=3.0, s=2),
        Edit(changes, placed(positions)),
        Tracker("head", AT, SCORES[score]()),
        PromptSettings(stop=("\n",)),
        DecodingSettings(tokens=7),
        fingerprint=MODEL,
        about={"method": "fasb", "held_out": 0.5},
    )


@pytest.mark.parametrize("positions", ["from_answer", "all", "prompt_end", "scheduled"])
@pytest.mark.parametrize("score", SCORES)
def test_a_bundle_comes_back_as_it_was_saved(tmp_path, score, positions):
    one = bundle(score, positions)
    one.save(tmp_path / "one.bundle")
    two = Bundle.load(tmp_path / "one.bundle")
    assert two.key() == one.key()
    for part in ("policy", "prompt", "decoding", "scoring", "fingerprint", "about"):
        assert getattr(two, part) == getattr(one, part)
    assert two.edit.content() == one.edit.content()
    assert two.edit.active == one.edit.active
    assert two.tracker.content() == one.tracker.content()
    assert two.edit.changes[1].operation.direction.dtype == torch.float32


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ((), "no tuple of 1 to 1000 shares"),
        ((1.0,) * 1001, "no tuple of 1 to 1000 shares"),
        ((0.5,), "it begins with 0.5"),
        ((1.0, 2.0), "a share is no number from 0 to 1"),
        ((1.0, float("nan")), "a share is no number from 0 to 1"),
    ],
)
def test_a_schedule_begins_in_full_and_never_exceeds_that(schedule, told):
    with pytest.raises(BundleError, match=rf"edit.schedule: {told}; give shares"):
        Active("prompt_end", schedule)


def test_a_schedule_that_nothing_looks_at_is_refused():
    with pytest.raises(BundleError, match="not heard at positions 'from_answer'; set these"):
        Active("from_answer", (1.0, 0.5))


@pytest.mark.parametrize(
    "schedule", [5, "10", None, {"1": 0}, [True, False], ["1", "0"], [1, [0]], [1, None]]
)
def test_a_schedule_is_a_list_of_numbers(schedule):
    layout = edit_layout(bundle(next(iter(SCORES)), "prompt_end").edit)
    tensors = edit_tensors(bundle(next(iter(SCORES)), "prompt_end").edit)
    assert read_edit(layout, tensors).active == Active("prompt_end")
    assert read_edit({**layout, "schedule": [1, 0]}, tensors).active == Active("prompt_end")
    with pytest.raises(ValueError, match="^edit.schedule is no list of numbers"):
        read_edit({**layout, "schedule": schedule}, tensors)


def test_the_unsteered_bundle_has_neither_edit_nor_tracker(tmp_path):
    Bundle(Policy(when="never")).save(tmp_path / "plain.bundle")
    plain = Bundle.load(tmp_path / "plain.bundle")
    assert (plain.edit, plain.tracker) == (None, None)
    assert plain.key() == Bundle(Policy(when="never")).key()


@pytest.mark.parametrize(
    "questions", [[], {"seen": "abc"}, {"seen": None}, {"seen": [["a"]]}, {"seen": [1]}]
)
def test_questions_that_a_bundle_has_seen_are_a_list_of_texts(tmp_path, questions):
    Bundle(Policy(when="never")).save(tmp_path / "x.bundle")
    rewrite(tmp_path / "x.bundle", lambda about: about["about"].update(questions=questions))
    with pytest.raises(BundleError, match=r"x.bundle: .*about.questions.seen is no list of texts"):
        Bundle.load(tmp_path / "x.bundle")


def rewrite(path, change):
    """Change the JSON of a bundle's file as a stranger could, its checksum made anew."""
    arrays, about, _ = read_tensors(path)
    change(about)
    write_tensors(path, arrays, {}, about)


@pytest.mark.parametrize("part", ["fingerprint", "prompt", "about"])
def test_half_a_character_is_named(tmp_path, part):
    bundle().save(tmp_path / "x.bundle")
    key = {"fingerprint": "model", "prompt": "open", "about": "method"}[part]
    rewrite(tmp_path / "x.bundle", lambda about: about[part].update({key: "a\ud800"}))
    with pytest.raises(BundleError, match=r"x.bundle: .*a text holds half a character"):
        Bundle.load(tmp_path / "x.bundle")
    with pytest.raises(BundleError, match=r"^bundle: .*a text holds half a character"):
        replace(bundle(), about={"method": "a\ud800"}).save(tmp_path / "y.bundle")


@pytest.mark.parametrize("key", ["slope", "intercept"])
@pytest.mark.parametrize(
    "value", [pytest.param(10**400, id="10^400"), float("nan"), "1", True, None, [1]]
)
def test_the_numbers_of_a_calibration_are_finite(tmp_path, key, value):
    one = bundle()
    one = replace(one, tracker=replace(one.tracker, calibration=Platt(2.0, -1.0)))
    one.save(tmp_path / "x.bundle")
    assert Bundle.load(tmp_path / "x.bundle").tracker.calibration == Platt(2.0, -1.0)
    own = {key: value}
    rewrite(tmp_path / "x.bundle", lambda about: about["tracker"]["calibration"].update(own))
    with pytest.raises(BundleError, match=rf"x.bundle: .*calibration.{key} is no finite number"):
        Bundle.load(tmp_path / "x.bundle")


def added(at, vector) -> Bundle:
    """A bundle that adds vectors."""
    return replace(bundle(), edit=Edit.add(torch.tensor(at), torch.as_tensor(vector)))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: added([[0, 1]], [[0.0, float("nan"), 1.0]]), "edit.0.vector is not finite"),
        (lambda: added([[0, 9]], torch.ones(1, 3)), "unit 9 of layer 0"),
        (lambda: added([[0, 1]], torch.ones(1, 3).bfloat16()), "give tensors of float32"),
        (lambda: replace(bundle(), about={"a": object()}), "values that JSON knows"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, made, message):
    with pytest.raises(BundleError, match=f"^bundle: .*{message}"):
        made().save(tmp_path / "x.bundle")
    assert not list(tmp_path.iterdir())


def test_values_that_are_not_finite_are_named():
    bundle().check_values()
    with pytest.raises(BundleError, match=r"^mine: edit.0.vector is not finite; fit it again"):
        added([[0, 1]], [[0.0, float("inf"), 1.0]]).check_values("mine")


def test_a_config_that_is_nested_too_deeply_is_another_model():
    other = replace(MODEL, config="[" * 100_000)
    with pytest.raises(BundleError, match="made for model_type null"):
        other.check(replace(MODEL, config='{"model_type": "llama"}'))


def test_the_key_follows_all_that_changes_an_answer():
    one = bundle()
    (first, *rest), at = one.edit.changes, AT.flip(0)
    others = [
        one.with_policy(alpha=4.0),
        replace(one, edit=None),
        replace(one, edit=Edit((replace(first, at=at), *rest))),
        replace(one, edit=replace(one.edit, active=Active("all"))),
        replace(one, tracker=None),
        replace(one, tracker=replace(one.tracker, at=at)),
        replace(one, decoding=DecodingSettings(tokens=8)),
        replace(one, prompt=PromptSettings()),
    ]
    assert len({other.key() for other in [one, *others]}) == len(others) + 1
    assert replace(one, about={"note": "other"}).key() == one.key()


def test_another_policy_claims_nothing_that_was_measured():
    assert bundle().with_policy(alpha=4.0).about == {"method": "fasb"}


def test_what_is_not_whole_is_refused():
    one = bundle()
    for parts, message in (
        ({"tracker": None}, "when 'token' reads p, but there is no tracker; fit one"),
        ({"edit": None}, "when 'token' may steer, but there is no edit; fit one"),
        (
            {
                "edit": replace(one.edit, active=Active("all")),
                "decoding": DecodingSettings(edit="transient"),
            },
            "positions 'all' stays in the cache; set decoding.edit to persistent",
        ),
    ):
        with pytest.raises(BundleError, match=f"^bundle: .*{message}"):
            replace(one, **parts).require()
    replace(one.with_policy(when="always"), tracker=None).require()
    replace(one.with_policy(when="never"), tracker=None, edit=None).require()
    with pytest.raises(ConfigError):
        one.with_policy(s=0)


@pytest.mark.parametrize("field", ["n_layers", "n_heads", "head_dim", "tokenizer", "hidden"])
def test_another_model_is_refused_by_the_field_that_differs(field):
    other = replace(MODEL, **{field: "xyz" if field == "tokenizer" else 99})
    with pytest.raises(BundleError, match=f"made for {field}"):
        MODEL.check(other, siblings=True)


def test_a_sibling_is_taken_only_when_said_so():
    sibling = replace(MODEL, model="llama-chat", weights="other")
    with pytest.raises(BundleError, match="or allow siblings"):
        MODEL.check(sibling)
    MODEL.check(sibling, siblings=True)
