"""Whatever a stranger's file holds.

A bundle that can be attached, or one line that names the file.
"""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_steering_bundle import bundle

from fasb.artifacts import read_tensors, write_tensors
from fasb.errors import ArtifactError, BundleError
from fasb.steering.bundle import Bundle
from fasb.steering.serialize import edit_layout, edit_tensors, read_edit, read_tracker

REMOVED = "left out"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tensors and the JSON of a bundle's file."""
    path = tmp_path_factory.mktemp("bundle") / "whole.bundle"
    bundle("cosine").save(path)
    arrays, about, _ = read_tensors(path)
    return arrays, about


def changed(value, path, new):
    """A copy of nested dicts and lists with one place changed, or taken out."""
    value = copy.deepcopy(value)
    *way, last = path
    place = value
    for key in way:
        place = place[key]
    if new is REMOVED:
        del place[last]
    else:
        place[last] = new
    return value


def refusal(path, arrays, about):
    """What loading says to a file of these parts; it must be one line that names the file."""
    write_tensors(path, arrays, {}, about)
    with pytest.raises((BundleError, ArtifactError)) as caught:
        Bundle.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert ";" in message
    return message


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (["format"], 2, "not a bundle of format 3"),
        (["format"], REMOVED, "not a bundle of format 3"),
        (["policy"], REMOVED, "lacks 'policy'"),
        (["policy"], [], "policy is no mapping"),
        (["policy", "when"], "zig", "policy.when"),
        (["policy", "gate"], "answer", "policy.gate: unknown key"),
        (["policy", "s"], 2.5, "policy.s"),
        (["policy", "s"], 0, "at least one token must be dropped"),
        (["policy", "s"], "10", "policy.s"),
        (["policy", "alpha"], float("nan"), "policy.alpha"),
        (["policy", "alpha"], float("inf"), "policy.alpha"),
        (["policy", "beta"], True, "policy.beta"),
        (["policy", "beta"], 1.5, "is not a probability"),
        (["policy", "backtracks"], 0, "policy.backtracks"),
        (["edit"], None, "may steer, but there is no edit|unknown tensor"),
        (["edit"], "head", "edit is no mapping"),
        (["edit", "positions"], "everywhere", "positions 'everywhere'"),
        (["edit", "positions"], ["all"], "positions"),
        (["edit", "changes"], [], "unknown tensor|no changes"),
        (["edit", "changes"], {}, "no changes|unknown tensor"),
        (["edit", "changes"], 7, "not iterable"),
        (["edit", "changes", 0], None, "edit.0 is no mapping"),
        (["edit", "changes", 0, "site"], "heads", "site 'heads'"),
        (["edit", "changes", 0, "site"], {}, "site {}"),
        (["edit", "changes", 0, "operation"], "multiply", "lacks 'multiply'"),
        (["edit", "changes", 0, "operation"], ["add"], "unhashable"),
        (["edit", "changes", 0, "operation"], "scale", "lacks 'edit.0.factor'"),
        (["edit", "changes", 0, "norm"], True, "edit.0.norm: unknown key"),
        (["edit", "scale"], 2.0, "edit.scale: unknown key"),
        (["tracker"], None, "unknown tensor"),
        (["tracker", "score"], "mlp", "lacks 'mlp'"),
        (["tracker", "score"], "logistic", "lacks 'tracker.bias'"),
        (["tracker", "site"], "mlp", "unit 3 of layer 1"),
        (["tracker", "threshold"], 0.5, "tracker.threshold: unknown key"),
        (["prompt", "stop"], [""], "prompt.stop.0"),
        (["prompt", "stops"], [], "prompt.stops: unknown key"),
        (["prompt"], [], "prompt is no mapping"),
        (["decoding"], None, "decoding is no mapping"),
        (["decoding", "tokens"], 0, "decoding.tokens"),
        (["decoding", "edit"], "forever", "decoding.edit"),
        (["scoring", "start"], "end", "scoring.start"),
        (["fingerprint"], {"model": "x"}, "not a fingerprint"),
        (["fingerprint", "n_heads"], "4", "not a fingerprint"),
        (["fingerprint", "n_heads"], 2, "unit 3 of layer 1"),
        (["fingerprint", "n_layers"], 1, "layer 1"),
        (["fingerprint", "head_dim"], 4, "3 values wide"),
        (["fingerprint", "hidden"], 24, "12 values wide"),
        (["about"], "mine", "about is no mapping"),
        (["about"], [[1, 2]], "about is no mapping"),
        (["more"], 1, "more: unknown key"),
    ],
    ids=str,
)
def test_json_that_no_bundle_has_is_refused(whole, tmp_path, path, new, message):
    arrays, about = whole
    found = refusal(tmp_path / "x.bundle", arrays, changed(about, path, new))
    assert any(part in found for part in message.split("|")), found


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "new", "message"),
    [
        ("edit.0.at", REMOVED, "lacks 'edit.0.at'"),
        ("edit.0.at", np.array([[0.0, 1.0], [1.0, 3.0]]), "no pairs of layer and unit"),
        ("edit.0.at", np.array([[0, 1], [1, 3]], dtype=np.int32), "no pairs of layer and unit"),
        ("edit.0.at", np.array([[0, 1, 2], [1, 3, 2]]), "no pairs of layer and unit"),
        ("edit.0.at", np.array([0, 1]), "no pairs of layer and unit"),
        ("edit.0.at", np.zeros((0, 2), dtype=np.int64), "of shape"),
        ("edit.0.at", np.array(3), "edit.0"),
        ("edit.0.at", np.array([[0, 1], [0, 1]]), "a unit twice"),
        ("edit.0.at", np.array([[0, 1], [-1, 3]]), "layer or unit -1"),
        ("edit.0.at", np.array([[0, 1], [10**15, 3]]), "layer 1000000000000000"),
        ("edit.0.at", np.array([[0, 1], [1, 4]]), "unit 4"),
        ("edit.0.at", np.array([[0, 1], [1, 3], [1, 2]]), "of shape"),
        ("edit.0.vector", REMOVED, "lacks 'edit.0.vector'"),
        ("edit.0.vector", np.array([[1.0, NAN, 0], [1, 1, 1]]), "not finite"),
        ("edit.0.vector", np.array([[1.0, np.inf, 0], [1, 1, 1]]), "not finite"),
        ("edit.0.vector", np.ones((2, 3), dtype=np.int64), "type torch.int64"),
        ("edit.0.vector", np.ones((2, 3), dtype=np.uint16), "type torch.uint16"),
        ("edit.0.vector", np.ones((2, 3), dtype=bool), "type torch.bool"),
        ("edit.0.vector", np.ones(2), "of shape (2,)"),
        ("edit.0.vector", np.ones((2, 3, 1)), "of shape (2, 3, 1)"),
        ("edit.0.vector", np.ones((2, 0)), "'width': 0"),
        ("edit.0.vector", np.ones((2, 4)), "4 values wide"),
        ("edit.1.direction", np.ones((2, 3)), "3 values wide"),
        ("tracker.weight", np.full((2, 3), NAN), "tracker.weight is not finite"),
        ("tracker.weight", np.ones((2, 8)), "tracker.centre is of width 3, not 8"),
        ("tracker.centre", REMOVED, "lacks 'tracker.centre'"),
        ("tracker.centre", np.ones(2), "of shape (2,)"),
        ("tracker.bias", np.ones(2), "tracker.bias: unknown tensor"),
        ("edit.3.at", np.array([[0, 0]]), "edit.3.at: unknown tensor"),
    ],
    ids=str,
)
def test_tensors_that_no_bundle_has_are_refused(whole, tmp_path, name, new, message):
    arrays, about = whole
    found = refusal(tmp_path / "x.bundle", changed(arrays, [name], new), about)
    assert message in found


def test_a_bias_for_each_entry_is_refused(tmp_path):
    bundle("logistic").save(tmp_path / "one.bundle")
    arrays, about, _ = read_tensors(tmp_path / "one.bundle")
    arrays["tracker.bias"] = np.ones((2, 3), dtype=np.float32)
    assert "tracker.bias is of shape (2, 3)" in refusal(tmp_path / "x.bundle", arrays, about)


@pytest.mark.parametrize("about", [None, [], "bundle", 7, {}, {"format": 2}])
def test_a_safetensors_file_of_another_kind_is_not_a_bundle(tmp_path, about):
    refusal(tmp_path / "x.bundle", {"w": np.zeros(2)}, about)


def test_damaged_and_missing_files_are_refused_by_name(whole, tmp_path):
    path = tmp_path / "x.bundle"
    with pytest.raises(ArtifactError, match="no such file"):
        Bundle.load(path)
    with pytest.raises(ArtifactError, match=f"^{tmp_path}: not a file"):
        Bundle.load(tmp_path)
    bundle().save(path)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-3] ^= 1
    huge = (2**62).to_bytes(8, "little") + content[8:]
    for damaged in (b"", content[:100], content[:-7], bytes(flipped), huge, b"zip" + content):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=f"^{path}: .*; "):
            Bundle.load(path)


def test_a_file_without_our_stamp_is_refused(whole, tmp_path):
    from safetensors.numpy import save_file

    path, (arrays, about) = tmp_path / "x.bundle", whole
    for stamp in ("", "null", "[]", "{}", '{"digest": 3}', "{"):
        save_file(arrays, path, metadata={"fasb": stamp, "about": json.dumps(about)})
        with pytest.raises(ArtifactError, match=f"^{path}: "):
            Bundle.load(path)
    save_file(arrays, path)
    with pytest.raises(ArtifactError, match=f"^{path}: "):
        Bundle.load(path)


# Anything at all

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("head")
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=5), SCALARS, max_size=3),
    st.just(REMOVED),
)
SHAPES = st.lists(st.integers(0, 4), max_size=3)
DTYPES = st.sampled_from(
    ["float32", "float64", "float16", "int64", "int32", "bool", "uint8", "uint16", "uint64"]
)
TENSORS = st.tuples(SHAPES, DTYPES, st.sampled_from([0, 1, -1, 3, 10**12, np.nan, np.inf]))


def places(value, way=()):
    """All places of nested JSON."""
    found = [way] if way else []
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, part in inside:
        found += places(part, (*way, key))
    return found


def tensor_of(shape, dtype, value):
    with np.errstate(all="ignore"):
        return np.full(shape, value, dtype=np.float64).astype(dtype)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_whatever_is_changed_in_a_file_it_is_a_bundle_or_refused_in_one_line(
    whole, tmp_path_factory, data
):
    arrays, about = whole
    path = tmp_path_factory.mktemp("any") / "x.bundle"
    for _ in range(data.draw(st.integers(1, 2))):
        if data.draw(st.booleans()):
            way = data.draw(st.sampled_from(places(about)))
            about = changed(about, way, data.draw(VALUES))
        else:
            name = data.draw(st.sampled_from(sorted(arrays)))
            arrays = changed(arrays, [name], tensor_of(*data.draw(TENSORS)))
    write_tensors(path, arrays, {}, about)
    try:
        loaded = Bundle.load(path)
    except (BundleError, ArtifactError) as error:
        said = str(error)
        assert said.startswith(str(path)) and "\n" not in said  # noqa: PT018 - or is read
        return
    # what is taken can be used: p of its units, and what its edit adds, are of their shape
    loaded.require()
    if loaded.tracker is not None:
        width = loaded.tracker.score.weight.shape[1]
        assert loaded.tracker.deviation(torch.zeros(1, len(loaded.tracker.at), width)).isfinite()
    for change in loaded.edit.changes if loaded.edit is not None else ():
        (name,) = type(change.operation).__slots__
        x = torch.zeros(1, 1, *getattr(change.operation, name).shape)
        assert change.operation.delta(x, torch.ones(1, 1, 1, 1)).shape == x.shape
    loaded.save(path)
    assert Bundle.load(path).key() == loaded.key()


def test_parts_are_read_from_among_other_tensors():
    """As `vectors.safetensors` holds those of many settings."""
    one, two = bundle().edit, bundle().edit
    tensors = edit_tensors(one, "fold0.a") | edit_tensors(two, "fold1.a")
    layout = edit_layout(one)
    assert read_edit(layout, tensors, "fold0.a").content() == one.content()
    assert read_edit(layout, tensors, "fold1.a").content() == two.content()
    assert read_edit(None, tensors) is None
    assert read_tracker(None, tensors) is None
    with pytest.raises(KeyError):
        read_edit(layout, tensors, "fold2.a")
