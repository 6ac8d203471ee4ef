import numpy as np
import pytest
import torch
from fits import some_fits, spoil

from fasb.artifacts import read_tensors
from fasb.errors import ArtifactError, ConfigError
from fasb.fitting.directions import probe_vectors, prototype_vectors, with_sigma
from fasb.fitting.fold import check_splits, read_classifiers
from fasb.fitting.probes import accuracy, fit_probes, fit_prototypes
from fasb.settings import DecodingSettings, ProbeSettings


@pytest.fixture
def fits(tmp_path):
    return some_fits(tmp_path).fit()


HEADS = np.array([[1, 2], [0, 1], [1, 0]])


def test_each_fold_is_fitted_on_its_own_training_rows(fits):
    bank = fits.banks[0]
    for fitted, split in zip(fits.read(), fits.splits, strict=True):
        train, validation = bank.rows(split.train), bank.rows(split.validation)
        expected = {
            "logistic": fit_probes(bank, train, ProbeSettings()),
            "cosine": fit_prototypes(bank, train),
        }
        for kind, classifier in expected.items():
            assert np.array_equal(fitted.accuracy[kind], accuracy(classifier, bank, validation))
            x = torch.from_numpy(
                np.stack([bank.layer(layer)[:, head] for layer, head in HEADS.tolist()], axis=1)
            )
            assert torch.equal(
                fitted.tracker(kind, HEADS).deviation(x),
                classifier.tracker(HEADS).deviation(x),
            )


def test_vectors_are_scaled_by_sigma_of_the_training_rows_behind_the_next_question(fits):
    bank, following = fits.banks
    for fitted, split in zip(fits.read(), fits.splits, strict=True):
        rows = np.isin(following.question, split.train) & np.isin(following.drawn, split.train)
        assert 0 < rows.sum() < np.isin(following.question, split.train).sum()
        probe = probe_vectors(fit_probes(bank, bank.rows(split.train), ProbeSettings()))
        expected = {"probe": probe, "prototype": prototype_vectors(bank, bank.rows(split.train))}
        for kind, vectors in expected.items():
            scaled = with_sigma(vectors, following, rows)
            assert np.array_equal(fitted.vectors[kind].scale, scaled.scale)
            assert torch.equal(fitted.edit(kind, HEADS).vector, scaled.edit(HEADS).vector)


def test_raw_vectors_have_the_length_of_what_they_were_made_of(fits):
    fits.fit(scale="raw")
    fitted, classifiers = fits.read()[0], read_classifiers(fits.files[0])[0]
    vectors = fitted.vectors["probe"]
    assert np.allclose(vectors.scale[..., None] * vectors.direction, classifiers["logistic"].weight)


def test_the_released_choice_of_rows_takes_sigma_from_all_and_prototypes_from_validation_too(fits):
    fits.fit(prototype_rows="train+validation", sigma_rows="all")
    bank, following = fits.banks
    fitted, split = fits.read()[0], fits.splits[0]
    vectors = prototype_vectors(bank, bank.rows((*split.train, *split.validation)))
    expected = with_sigma(vectors, following, np.ones(len(following.label), dtype=bool))
    assert np.array_equal(fitted.vectors["prototype"].direction, expected.direction)
    assert np.array_equal(fitted.vectors["prototype"].scale, expected.scale)


def test_test_rows_change_nothing_that_a_method_can_see(tmp_path):
    plain = some_fits(tmp_path / "plain").fit()
    spoiled = some_fits(tmp_path / "spoiled")
    for bank in spoiled.banks:
        spoil(bank, spoiled.splits[0].test)
    spoiled.fit()
    first, second = plain.read()[0], spoiled.read()[0]
    for kind in ("logistic", "cosine"):
        assert np.array_equal(first.accuracy[kind], second.accuracy[kind])
    for mine, other in zip(plain.files[1:], spoiled.files[1:], strict=True):
        a, b = read_tensors(mine)[0], read_tensors(other)[0]
        assert all(np.array_equal(a[name], b[name]) for name in a if name.startswith("fold0"))
        assert not all(np.array_equal(a[name], b[name]) for name in a if name.startswith("fold1"))


def test_equal_trackers_are_one_object(fits):
    fitted = fits.read()[0]
    assert fitted.tracker("logistic", HEADS) is fitted.tracker("logistic", HEADS.copy())
    assert fitted.tracker("logistic", HEADS) is not fitted.tracker("cosine", HEADS)
    assert fitted.tracker("logistic", HEADS) is not fitted.tracker("logistic", HEADS[::-1].copy())


def test_sections_and_questions_seen_go_along(fits):
    decoding = DecodingSettings(tokens=7)
    fitted = fits.read(decoding=decoding)[1]
    assert fitted.seen == fits.splits[1].train + fits.splits[1].validation
    assert fitted.sections.decoding == decoding
    assert fitted.fingerprint == fits.banks[0].fingerprint
    assert fitted.fold == 1


def test_more_than_ten_folds_stay_in_order(tmp_path):
    fits = some_fits(tmp_path, n=36, n_folds=12).fit()
    assert [fitted.seen for fitted in fits.read()] == [
        split.train + split.validation for split in fits.splits
    ]


def test_more_anchors_than_heads_are_refused(fits):
    with pytest.raises(ConfigError, match=r"set k between 1 and 6"):
        fits.read()[0].anchors("logistic", 7)


def test_files_of_other_folds_are_refused(tmp_path):
    two, three = some_fits(tmp_path / "2").fit(), some_fits(tmp_path / "3", n_folds=3).fit()
    three.files[1].rename(two.files[1])
    with pytest.raises(ArtifactError, match="make both from the same splits"):
        two.read()
    with pytest.raises(ArtifactError, match="run 'fasb anchors' again"):
        check_splits(two.files[0], three.splits)


def test_damaged_anchors_are_refused(fits):
    fits.files[0].write_bytes(fits.files[0].read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="run 'fasb anchors' to make it|make it again"):
        fits.read()
