"""What a cell fits: each fold from its own rows, written once and read back as fitted."""

import numpy as np
import pytest
import torch
from fits import ENTRY, recipes_of, some_fits, spoil

from fasb.artifacts import read_tensors, write_tensors
from fasb.errors import ArtifactError, ConfigError
from fasb.fitting.directions import directions_of, mean_difference, with_sigma
from fasb.fitting.fold import (
    check_splits,
    edit_hash,
    fit_parts,
    know_fitted,
    read_classifiers,
    tracker_hash,
)
from fasb.fitting.probes import accuracy, fit_probes, fit_prototypes
from fasb.fitting.reads import HEAD_READS
from fasb.hdf5files import reading_hdf5
from fasb.methods.head_vectors import directions
from fasb.search import Method
from fasb.settings import DecodingSettings, ProbeSettings, StageSettings, VectorSettings
from fasb.steering.edit import Edit
from fasb.steering.operations import Add, Remove

UNSTEERED = Method()
EVERY_HEAD = np.stack(np.unravel_index(np.arange(6), (2, 3)), axis=1)


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    return some_fits(tmp_path_factory.mktemp("fits")).fit()


def known(fits, fold=0, **sections):
    """A fold's training that knows what the first two stages have fitted."""
    training = fits.training(fold, **sections)
    know_fitted(training, fits.trackers, fits.anchors)
    return training


def test_each_fold_is_fitted_on_its_own_training_rows(fits):
    bank = fits.bank(HEAD_READS[0])
    for i, split in enumerate(fits.splits):
        train, validation, test = (
            bank.rows(part) for part in (split.train, split.validation, split.test)
        )
        for expected in (fit_probes(bank, train, ProbeSettings()), fit_prototypes(bank, train)):
            kind = expected.kind
            fitted = read_classifiers(fits.trackers)[i][kind]
            for mine, other in ((fitted.weight, expected.weight), (fitted.bias, expected.bias)):
                assert np.array_equal(mine, other)
            assert (fitted.centre is None) == (kind == "logistic")
            assert kind == "logistic" or np.array_equal(fitted.centre, expected.centre)
            with reading_hdf5(fits.anchors) as file:
                group = file[f"fold{i}/{kind}"]
                ranked, told = group["accuracy"][:], group["accuracy_test"][:]
            assert np.array_equal(ranked, accuracy(expected, bank, validation))
            assert np.array_equal(told, accuracy(expected, bank, test))


def test_a_training_that_knows_its_files_fits_nothing_anew(fits, monkeypatch):
    fresh = fits.training()
    expected = {kind: fresh.classifiers(kind) for kind in ("logistic", "cosine")}
    ranked = {kind: fresh.accuracy(kind) for kind in ("logistic", "cosine")}
    monkeypatch.setattr("fasb.fitting.training.fit_classifiers", None)
    monkeypatch.setattr("fasb.fitting.training.accuracy", None)
    training = known(fits)
    for kind, classifiers in expected.items():
        assert np.array_equal(training.classifiers(kind).weight, classifiers.weight)
        assert np.array_equal(training.accuracy(kind), ranked[kind])


def test_vectors_are_scaled_by_sigma_of_the_training_rows_behind_the_next_question(fits):
    bank, following = (fits.bank(read) for read in HEAD_READS)
    for i, split in enumerate(fits.splits):
        rows = np.isin(following.question, split.train) & np.isin(following.drawn, split.train)
        assert 0 < rows.sum() < np.isin(following.question, split.train).sum()
        train = bank.rows(split.train)
        raw = {
            "probe": fit_probes(bank, train, ProbeSettings()).weight,
            "prototype": mean_difference(bank, train),
        }
        for kind, vectors in raw.items():
            scaled = with_sigma(directions_of(vectors, kind), following, rows)
            found = directions(known(fits, i), kind)
            assert np.array_equal(found.scale, scaled.scale)
            assert torch.equal(found.vectors(EVERY_HEAD), scaled.vectors(EVERY_HEAD))


def test_raw_vectors_have_the_length_of_what_they_were_made_of(fits):
    found = directions(known(fits, vectors=VectorSettings(scale="raw")), "probe")
    weight = read_classifiers(fits.trackers)[0]["logistic"].weight
    assert np.allclose(found.scale[..., None] * found.direction, weight)


def test_the_released_choice_of_rows_takes_sigma_from_all_and_prototypes_from_validation_too(fits):
    bank, following = (fits.bank(read) for read in HEAD_READS)
    settings = VectorSettings(prototype_rows="train+validation", sigma_rows="all")
    found, split = directions(known(fits, vectors=settings), "prototype"), fits.splits[0]
    raw = mean_difference(bank, bank.rows((*split.train, *split.validation)))
    every = np.ones(len(following.label), dtype=bool)
    expected = with_sigma(directions_of(raw, "prototype"), following, every)
    assert np.array_equal(found.direction, expected.direction)
    assert np.array_equal(found.scale, expected.scale)


def test_test_rows_change_nothing_that_a_method_can_see(tmp_path):
    """But for what the reference preset takes from all rows, and the accuracy that is reported."""
    plain, spoiled = some_fits(tmp_path / "plain"), some_fits(tmp_path / "spoiled")
    for read in HEAD_READS:
        spoiled.banks[read] = spoil(spoiled.bank(read), spoiled.splits[0].test)
    plain.fit()
    spoiled.fit()
    for mine, other in ((plain.trackers, spoiled.trackers), (plain.vectors, spoiled.vectors)):
        a, b = read_tensors(mine)[0], read_tensors(other)[0]
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a if name.startswith("fold0"))
        assert not all(np.array_equal(a[name], b[name]) for name in a if name.startswith("fold1"))
    with reading_hdf5(plain.anchors) as mine, reading_hdf5(spoiled.anchors) as other:
        for kind in ("logistic", "cosine"):
            a, b = mine[f"fold0/{kind}"], other[f"fold0/{kind}"]
            assert np.array_equal(a["accuracy"][:], b["accuracy"][:])
            assert not np.array_equal(a["accuracy_test"][:], b["accuracy_test"][:])


def test_a_folds_file_gives_the_bundles_that_fitting_gives(fits):
    recipes = recipes_of([ENTRY], StageSettings())
    for i, fold in enumerate(fits.read()):
        fitted = fit_parts(known(fits, i), recipes)
        assert (fold.fold, fold.seen, fold.fingerprint) == (
            fitted.fold,
            fitted.seen,
            fitted.fingerprint,
        )
        for recipe in recipes:
            mine, other = fold.bundle(recipe, {}), fitted.bundle(recipe, {})
            assert mine.key() == other.key()
            assert mine.about == other.about == {"fold": i, "settings": recipe.settings()}


def test_equal_settings_are_fitted_once_whatever_the_policy(fits, monkeypatch):
    grid = {"alpha": (1, 2, 3), "beta": (0.3, 0.5), "s": (2, 4), "vector": ("probe", "prototype")}
    recipes = recipes_of([ENTRY.model_copy(update={"grid": grid})], StageSettings())
    assert len(recipes) == 25  # and not to steer
    assert len({edit_hash(recipe) for recipe in recipes}) == 2
    assert len({tracker_hash(recipe) for recipe in recipes}) == 1
    fitted = fit_parts(known(fits), recipes)
    assert (len(fitted.edits), len(fitted.trackers)) == (2, 1)
    tracked = [recipe for recipe in recipes if recipe.policy.reads_p]
    trackers = {id(fitted.bundle(recipe, {}).tracker) for recipe in tracked}
    assert len(trackers) == 1


def test_a_setting_that_was_not_fitted_is_refused(fits):
    other = recipes_of([ENTRY.model_copy(update={"settings": {"k": 3}})], StageSettings())[0]
    with pytest.raises(ArtifactError, match="fold 1 has none of these settings; fit them again"):
        fits.read()[1].bundle(other, {})


def test_the_unsteered_model_needs_nothing_fitted(tmp_path):
    fits = some_fits(tmp_path).fit([UNSTEERED])
    (recipe,) = recipes_of([UNSTEERED], StageSettings())
    bundle = fits.read()[0].bundle(recipe, {})
    assert (bundle.edit, bundle.tracker, bundle.policy.when) == (None, None, "never")


def test_sections_and_questions_seen_go_along(fits):
    fold = fits.read(decoding=DecodingSettings(tokens=7))[1]
    assert fold.seen == fits.splits[1].train + fits.splits[1].validation
    assert fold.bundle(recipes_of([ENTRY], StageSettings())[0], {}).decoding.tokens == 7
    assert fold.fingerprint == fits.bank(HEAD_READS[0]).fingerprint


def test_more_than_ten_folds_stay_in_order(tmp_path):
    fits = some_fits(tmp_path, n=36, n_folds=12).fit()
    folds = fits.read()
    assert [fold.fold for fold in folds] == list(range(12))
    assert [fold.seen for fold in folds] == [
        split.train + split.validation for split in fits.splits
    ]
    recipe = recipes_of([ENTRY], StageSettings())[0]
    keys = {fold.bundle(recipe, {}).key() for fold in folds}
    assert len(keys) == 12


def test_more_anchors_than_heads_are_refused(fits):
    with pytest.raises(ConfigError, match="set k between 1 and 6"):
        known(fits).anchors("logistic", 7)


def test_files_of_other_folds_are_refused(tmp_path):
    two, three = some_fits(tmp_path / "2").fit(), some_fits(tmp_path / "3", n_folds=3).fit()
    with pytest.raises(ArtifactError, match=r"of 3 folds, but the splits have 2; run 'fasb run tr"):
        read_classifiers(three.trackers, 2)
    with pytest.raises(ArtifactError, match="run 'fasb run anchors' again"):
        check_splits(two.anchors, three.splits)
    three.vectors.rename(two.vectors)
    with pytest.raises(ArtifactError, match="make both from the same splits"):
        two.read()


def test_damaged_anchors_are_refused(tmp_path):
    fits = some_fits(tmp_path).fit()
    fits.anchors.write_bytes(fits.anchors.read_bytes()[:1000])
    with pytest.raises(
        ArtifactError, match=r"anchors.h5: not a finished HDF5 file.*; make it again"
    ):
        fits.read()


@pytest.mark.parametrize(
    "spoiling",
    [
        lambda arrays, layouts: arrays.pop(next(name for name in arrays if name.endswith(".at"))),
        lambda arrays, layouts: layouts.update({"fold0.x": {"edit": {"positions": "all"}}}),
        lambda arrays, layouts: layouts.update({"fold0.x": 7}),
        lambda arrays, layouts: arrays.update({next(iter(arrays)): np.zeros(2)}),
    ],
    ids=["no units", "no changes", "no layout", "other shapes"],
)
def test_vectors_that_are_no_edits_are_refused(tmp_path, spoiling):
    fits = some_fits(tmp_path).fit()
    arrays, layouts, _ = read_tensors(fits.vectors)
    spoiling(arrays, layouts)
    write_tensors(fits.vectors, arrays, {}, layouts)
    with pytest.raises(ArtifactError, match=r"vectors.safetensors: not what 'fasb run vectors'"):
        fits.read()


def test_trackers_of_another_kind_of_file_are_refused(tmp_path):
    path = tmp_path / "trackers.safetensors"
    write_tensors(path, {"fold0.logistic.weight": np.zeros((2, 3, 5))}, {}, {})
    with pytest.raises(
        ArtifactError, match=r"trackers.safetensors: lacks 'fold0.logistic.bias'; run"
    ):
        read_classifiers(path)


def test_what_a_fold_made_once_is_made_once(fits):
    training, made = fits.training(), []
    for _ in range(3):
        assert training.once("key", lambda: made.append(1) or "value") == "value"
    assert made == [1]
    assert fits.training().once("key", lambda: "other") == "other"


def test_labels_of_questions_that_are_tested_on_are_not_given(fits):
    training, raw = fits.training(), fits.bank(HEAD_READS[0])
    bank, tested = training.bank(HEAD_READS[0]), raw.rows(fits.splits[0].test)
    assert set(raw.label[tested]) == {0, 1}
    assert set(bank.label[np.isin(bank.question, fits.splits[0].test)]) == {-1}
    own = np.isin(bank.question, (*fits.splits[0].train, *fits.splits[0].validation))
    assert np.array_equal(bank.label[own], raw.label[own])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "fit gives NoneType, not an Edit"),
        (lambda: edit_of(at=[[9, 0]]), "unit 0 of layer 9"),
        (lambda: edit_of(at=[[0, 0], [0, 0]]), "holds a unit twice"),
        (lambda: edit_of(width=3), "3 values wide"),
        (lambda: edit_of(value=float("nan")), "is not finite"),
        (lambda: edit_of(gradient=True), "still has its gradient; detach it"),
        (lambda: edit_of(operation=Remove, value=5.0), "removes a direction of length"),
    ],
)
def test_what_a_method_of_ones_own_gives_is_checked_where_it_is_fitted(
    fits, monkeypatch, made, message
):
    monkeypatch.setattr(
        "fasb.methods.head_vectors.fit", lambda *_: made() if made is not None else None
    )
    with pytest.raises(ConfigError, match=f"^methods: head_vectors: .*{message}"):
        fit_parts(fits.training(), recipes_of([Method(use="head_vectors")], StageSettings()))


def test_what_a_gate_of_ones_own_gives_is_checked_too(fits, monkeypatch):
    both = Method(use="head_vectors", gate="probe", settings={"k": 2})
    monkeypatch.setattr("fasb.gates.probe.fit", lambda *_: 0.5)
    with pytest.raises(ConfigError, match=r"^gates: probe: fit gives float, not a Tracker"):
        fit_parts(fits.training(), recipes_of([both], StageSettings()))


def edit_of(at=((0, 0), (1, 1)), width=None, value=1.0, gradient=False, operation=Add):
    """An edit of the tiny bank's model, wrong in one way."""
    vector = torch.full((len(at), width or 5), value, requires_grad=gradient)
    return Edit.of("head", torch.tensor([list(pair) for pair in at]), operation(vector))
