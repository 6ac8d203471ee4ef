from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fits import some_fits, some_questions
from tiny import tiny_model

from fasb.artifacts import Store
from fasb.errors import ConfigError, DataError
from fasb.extensions import validated
from fasb.search import Method, at_edge
from fasb.settings import DecodingSettings
from fasb.steering.bundle import Bundle
from fasb.study import comparing
from fasb.study.figures.numbers import along
from fasb.study.panels import HYPERPARAMETERS, best_setting
from fasb.study.run import Runner, traced
from fasb.study.sweep import SETTING, hyperparameter_table, hyperparameters, sweep_methods
from fasb.study.tune import bundle_path, tune

QUESTIONS = some_questions(20)
ALWAYS = {"use": "head_vectors"}
FASB = {"use": "head_vectors", "gate": "probe"}
METHODS = {
    "unsteered": Method(),
    "like-fasb": Method(**FASB, settings={"backtrack": False}, like="fasb"),
    "fasb": Method(
        **FASB, settings={"beta": 0.5}, grid={"k": (2, 4), "alpha": (1, 5), "s": (3, 6)}
    ),
    "iti": Method(**ALWAYS, settings={"vector": "probe"}, grid={"k": (2, 4), "alpha": (1, 5, 9)}),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def folds(model, tmp_path_factory):
    """Folds that were fitted on made-up activations of the tiny model's shape."""
    layout = model.layout
    fits = some_fits(
        tmp_path_factory.mktemp("fits"), (layout.n_layers, layout.n_heads, layout.head_dim)
    ).fit(METHODS)
    read = fits.read(decoding=DecodingSettings(tokens=10))
    return [
        (replace(fitted, fingerprint=model.fingerprint), split)
        for fitted, split in zip(read, fits.splits)
    ]


@pytest.fixture(scope="module")
def traces(model, folds):
    sections = folds[0][0].sections
    return traced(model, QUESTIONS, sections.prompt, sections.decoding)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def swept(model, folds, traces, store):
    return sweep_methods(
        Runner(model.settings, lambda: model, store), folds, QUESTIONS, traces, METHODS
    )


def by_length(questions, answers):
    """Scores that are as good as any."""
    length = np.array([len(answer) for answer in answers])
    return {"true": (length % 2).astype(float), "info": (length % 3 > 0).astype(float)}


@pytest.fixture(scope="module")
def verdicts(swept):
    pairs = swept[0][["question", "answer"]].drop_duplicates(ignore_index=True)
    return pairs.assign(**by_length(pairs["question"], pairs["answer"]))


@pytest.fixture(scope="module")
def tuned(swept, verdicts, folds):
    return tune([fitted for fitted, _ in folds], METHODS, QUESTIONS, *swept, verdicts)


# ---- grids


def test_the_last_key_of_a_grid_varies_fastest():
    points = METHODS["fasb"].points()
    assert points[:3] == [
        {"k": 2, "alpha": 1, "s": 3},
        {"k": 2, "alpha": 1, "s": 6},
        {"k": 2, "alpha": 5, "s": 3},
    ]
    assert len(points) == 8 + 1


def test_a_method_without_grid_has_one_setting():
    assert METHODS["unsteered"].points() == [{}]


@pytest.mark.parametrize(
    ("use", "settings", "expected"),
    [
        ({}, {}, {}),
        (ALWAYS, {"k": 2, "alpha": 3}, {"k": 2, "alpha": 3, "vector": "probe"}),
        (FASB, {"k": 2, "alpha": 3, "beta": 0.3, "s": 4, "vector": "probe"}, ...),
        (
            FASB,
            {"k": 2, "alpha": 3, "when": "prompt"},
            {"k": 2, "alpha": 3, "beta": 0.5, "vector": "probe"},
        ),
        (FASB, {"k": 2, "alpha": 3, "when": "always"}, {"k": 2, "alpha": 3, "vector": "probe"}),
        (
            FASB,
            {"k": 2, "alpha": 3, "beta": 0.3, "s": 4, "when": "always", "backtracks": 2},
            {"k": 2, "alpha": 3, "beta": 0.3, "s": 4, "vector": "probe"},
        ),
        (
            FASB,
            {"k": 2, "alpha": 3, "when": "always", "reestimate": True},
            {"k": 2, "alpha": 3, "vector": "probe"},
        ),
    ],
)
def test_hyperparameters_are_those_that_the_bundle_looks_at(folds, use, settings, expected):
    bundle = Method(**use, settings=settings).bundle(folds[0][0], {}, "test")
    expected = settings if expected is ... else expected
    assert {
        key: value for key, value in hyperparameters(bundle, ()).items() if value is not None
    } == expected


@pytest.mark.parametrize(
    ("use", "point", "expected"),
    [
        (
            FASB,
            {"k": 2, "alpha": 3, "adaptive": False, "backtracks": 2},
            "adaptive False, backtracks 2",
        ),
        (FASB, {"k": 2, "alpha": 3, "when": "prompt"}, "when prompt"),
        (FASB, {"k": 2, "alpha": 3, "adaptive": False, "when": "never"}, None),
        ({}, {"instruction": "Be brief.\nBe  true."}, "instruction Be brief. Be true."),
        # a key of another method's grid, which this one takes over, means nothing to it
        (ALWAYS, {"k": 2, "alpha": 3, "adaptive": False, "bound": 2}, "adaptive False"),
    ],
)
def test_what_has_no_column_of_its_own_stands_in_one_text(folds, use, point, expected):
    method = Method(**use, like="another") if use is ALWAYS else Method(**use)
    assert hyperparameters(method.bundle(folds[0][0], point, "test"), point)["other"] == expected


def test_a_layer_or_vector_of_another_kind_has_no_column_but_the_text(folds):
    bundle = Method(**FASB).bundle(folds[0][0], {"k": 2, "alpha": 3}, "test")
    own = {"k": "all", "layer": "last", "vector": 7, "alpha": 3.0}
    bundle = replace(bundle, about={**bundle.about, "settings": own})
    table = hyperparameter_table([bundle], ["layer", "vector", "alpha"])
    assert table["other"].tolist() == ["layer last, vector 7"]
    assert table[["k", "layer", "vector"]].isna().all(axis=None)


def test_settings_that_differ_in_other_keys_are_told_apart_wherever_they_are_shown(folds):
    method = Method(**FASB, settings={"k": 2}, grid={"alpha": (1, 2), "adaptive": (True, False)})
    bundles = [method.bundle(folds[0][0], point, "mine") for point in method.points()]
    table = hyperparameter_table(bundles, method.grid)
    assert table["other"].tolist()[:-1] == ["adaptive True", "adaptive False"] * 2
    assert table["other"].isna().tolist() == [False, False, False, False, True]
    frame = table.assign(fold=0, cell=0, method="mine", true_info=[0.1, 0.4, 0.2, 0.6, 0.0])
    frame = frame.assign(model="m", dataset="d", seed=0, n=1.0, chosen=frame["setting"] == 3)
    assert comparing.best_settings(frame, "mine", 1)[0]["setting"].endswith(", adaptive False")
    assert comparing.importance(frame, "mine")[0]["key"] == "other"
    # a line over alpha holds fixed what else was chosen
    assert along(frame, "alpha")["setting"].tolist() == [1, 3]


def test_a_wrong_value_names_the_method_and_key(folds):
    with pytest.raises(
        ConfigError, match=r"methods\.mine\.betta: unknown key; did you mean 'beta'"
    ):
        Method(**FASB, settings={"betta": 1}).bundle(folds[0][0], {}, "mine")


# ---- sweep


def test_every_setting_is_tried_on_every_validation_question_and_no_other(swept, folds):
    answers, scores = swept
    for frame in swept:
        assert not frame.duplicated([*SETTING, "question", "phrasing"]).any()
    for fitted, split in folds:
        for name, method in METHODS.items():
            for frame in (answers, scores):
                rows = frame[(frame["fold"] == fitted.fold) & (frame["method"] == name)]
                n_settings = 0 if method.like else len(method.points())
                assert rows["setting"].nunique() == n_settings
                assert set(rows["question"]) == (set(split.validation) if n_settings else set())


def test_hyperparameters_stand_beside_the_answers(swept):
    answers = swept[0]
    rows = answers[answers["method"] == "fasb"].drop_duplicates(["setting", "fold"])
    assert rows["layer"].isna().all()
    *points, _ = METHODS["fasb"].points()
    expected = [[point["k"], point["alpha"], 0.5, point["s"], "probe"] for point in points]
    known = [key for key in HYPERPARAMETERS if key not in ("layer", "after", "other")]
    for _, of_fold in rows.groupby("fold"):
        assert of_fold[known].to_numpy().tolist()[:-1] == expected
        # the last setting is not to steer
        assert of_fold[known].iloc[-1].isna().all()
    assert answers[answers["method"] == "unsteered"][list(HYPERPARAMETERS)].isna().all(axis=None)


def test_a_killed_sweep_goes_on_and_a_further_method_computes_only_itself(
    model, folds, traces, swept, store, capsys
):
    def fails():
        raise KeyboardInterrupt

    again = Runner(model.settings, fails, store)
    same = sweep_methods(again, folds, QUESTIONS, traces, METHODS)
    assert all(a.equals(b) for a, b in zip(swept, same, strict=True))
    more = {**METHODS, "more": Method(**FASB, settings={"when": "prompt"}, grid={"k": (2,)})}
    with pytest.raises(KeyboardInterrupt):
        sweep_methods(again, folds, QUESTIONS, traces, more)
    assert capsys.readouterr().err.count("taken from the store") == 12 + 6


def test_an_oracle_beside_them_leaves_other_methods_results_as_they_are(
    model, folds, traces, store, swept, capsys
):
    wrong = traces.assign(wrong=[i % 2 == 0 for i in range(len(traces))])
    oracle = Method(**ALWAYS, settings={"vector": "probe", "k": 2, "when": "oracle", "alpha": 5})
    methods = {"iti": METHODS["iti"], "oracle": oracle}
    capsys.readouterr()
    runner = Runner(model.settings, lambda: model, store)
    found, _ = sweep_methods(runner, folds, QUESTIONS, wrong, methods)
    said = capsys.readouterr().err
    assert said.count("iti, answers: taken from the store") == 2
    assert "oracle, answers: taken" not in said
    assert found[found["method"] == "oracle"]["fired"].any()


def test_methods_that_are_the_same_share_their_results(model, folds, traces, store, swept, capsys):
    fixed = {"vector": "probe", "when": "always", "adaptive": False, "backtrack": False}
    methods = {"all-fixed": Method(**FASB, settings=fixed, grid=METHODS["iti"].grid)}
    found = sweep_methods(
        Runner(model.settings, lambda: model, store), folds, QUESTIONS, traces, methods
    )
    assert capsys.readouterr().err.count("taken from the store") == 4
    iti = swept[0][swept[0]["method"] == "iti"]["answer"].tolist()
    assert found[0]["answer"].tolist() == iti


def test_nothing_is_generated_without_unsteered_answers(model, folds, store, swept):
    answers, scores = sweep_methods(
        Runner(model.settings, lambda: model, store), folds, QUESTIONS, None, METHODS
    )
    assert answers.empty
    assert scores.equals(swept[1])


# ---- tune


def test_true_info_is_the_product_of_the_means(tuned, swept, verdicts):
    rows = swept[0].merge(verdicts)
    for cell in tuned.grid.to_dict("records"):
        of_cell = rows[np.logical_and.reduce([rows[key] == cell[key] for key in SETTING])]
        assert cell["true_info"] == pytest.approx(of_cell["true"].mean() * of_cell["info"].mean())
        assert cell["steered"] == of_cell["fired"].mean()
        assert cell["n"] == len(of_cell)


def test_the_best_of_each_grid_is_chosen(tuned):
    for _, rows in tuned.grid.groupby(["fold", "method"]):
        assert rows["chosen"].sum() == rows["chosen_mc2"].sum() == 1
        assert rows[rows["chosen"]]["true_info"].item() == rows["true_info"].max()
        assert rows[rows["chosen_mc2"]]["mc2"].item() == rows["mc2"].max()


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(0.5, 0.1, 9), (0.6, 0.9, 9)], 1),
        ([(0.6, 0.5, 1), (0.6, 0.4, 9)], 1),
        ([(0.6, 0.4, 5), (0.6, 0.4, -2)], 1),
        ([(0.6, 0.4, 5), (0.6, 0.4, 5)], 0),
        ([(np.nan, 0.0, 1), (0.1, 1.0, 5)], 1),
        ([(48 / 80 * (48 / 80), 0.4, 1), (32 / 80 * (72 / 80), 0.9, 9)], 0),
        ([(32 / 80 * (72 / 80), 0.9, 9), (48 / 80 * (48 / 80), 0.4, 1)], 1),
    ],
    ids=[
        "better",
        "fewer steered",
        "smaller strength",
        "earlier",
        "not measured",
        "equal",
        "equal, in the other order",
    ],
)
def test_ties_go_to_fewer_steered_then_to_smaller_strength(rows, best):
    grid = pd.DataFrame(rows, columns=["true_info", "steered", "alpha"]).assign(
        setting=range(len(rows))
    )
    assert best_setting(grid, "true_info") == best
    of_choices = grid.rename(columns={"true_info": "mc2", "steered": "steered_mc"})
    assert best_setting(of_choices.assign(steered=-of_choices["steered_mc"]), "mc2") == best


def test_the_chosen_bundles_are_those_of_the_grid(tuned, folds, tmp_path):
    tuned.save_bundles(tmp_path / "bundles", {})
    for fitted, split in folds:
        rows = tuned.grid[(tuned.grid["fold"] == fitted.fold) & (tuned.grid["method"] == "fasb")]
        for purpose, column in (("generation", "chosen"), ("mc2", "chosen_mc2")):
            point = METHODS["fasb"].points()[rows[rows[column]]["setting"].item()]
            bundle = Bundle.load(bundle_path(tmp_path / "bundles", "fasb", fitted.fold, purpose))
            assert bundle.key() == METHODS["fasb"].bundle(fitted, point, "fasb").key()
            own = [q for q in QUESTIONS if q.id in split.train + split.validation]
            seen = {key for q in own for key in q.keys}
            assert set(bundle.about["questions"]["seen"]) == seen
    assert len([*(tmp_path / "bundles").iterdir()]) == 2 * 2 * len(METHODS)


def test_a_method_like_another_takes_its_values_and_keeps_its_own_settings(tuned):
    for fold, entries in tuned.chosen.items():
        assert list(entries) == list(METHODS)
        like, fasb = entries["like-fasb"], entries["fasb"]
        assert {**like["setting"], "beta": 0.5} == fasb["setting"]
        assert (like["edge"], like["validation"]) == ([], {})
        bundle = tuned.bundles["like-fasb", int(fold[4:]), "generation"]
        assert not bundle.policy.backtrack
        assert (
            bundle.edit.content()
            == tuned.bundles["fasb", int(fold[4:]), "generation"].edit.content()
        )


def test_a_method_does_not_steer_where_no_setting_is_better_than_the_model_as_it_is(
    folds, swept, verdicts
):
    found = tune(
        [fitted for fitted, _ in folds],
        METHODS,
        QUESTIONS,
        *swept,
        verdicts.assign(true=1.0, info=1.0),  # all answers are good: nothing is better than another
    )
    for fold, entries in found.chosen.items():
        for name in ("iti", "fasb", "like-fasb"):
            assert entries[name]["setting"] == {}
            assert not entries[name]["steers"]["generation"]
            assert entries[name]["edge"] == []
            assert found.bundles[name, int(fold[4:]), "generation"].policy.when == "never"


def test_a_method_may_take_the_mean_strength_of_another(folds, swept, verdicts):
    method = Method(**ALWAYS, like="fasb", mean_strength=True)
    methods = {"fasb": METHODS["fasb"], "mean": method}
    found = tune([fitted for fitted, _ in folds], methods, QUESTIONS, *swept, verdicts)
    rows = swept[0][swept[0]["method"] == "fasb"]
    for fold, entries in found.chosen.items():
        grid = found.grid[(found.grid["fold"] == int(fold[4:])) & found.grid["chosen"]]
        setting = grid["setting"].item()
        own = rows[(rows["fold"] == int(fold[4:])) & (rows["setting"] == setting)]
        bundle = found.bundles["mean", int(fold[4:]), "generation"]
        assert bundle.policy.alpha == pytest.approx(own["strength"].mean())
        assert bundle.policy.when == (
            "always" if entries["fasb"]["steers"]["generation"] else "never"
        )
    with pytest.raises(DataError, match="no answers of 'fasb', whose mean strength"):
        nothing = swept[0].iloc[:0], swept[1], verdicts
        tune([fitted for fitted, _ in folds], methods, QUESTIONS, *nothing)


def test_choices_at_the_edge_of_a_grid_are_named(folds, swept, verdicts):
    methods = {"iti": METHODS["iti"]}
    rows = verdicts.assign(true=0.0, info=1.0)
    middle = swept[0][
        (swept[0]["method"] == "iti") & (swept[0]["alpha"] == 5) & (swept[0]["k"] == 2)
    ]
    rows["true"] = rows.set_index(["question", "answer"]).index.isin(
        middle.set_index(["question", "answer"]).index
    ).astype(float)  # fmt: skip
    found = tune([fitted for fitted, _ in folds], methods, QUESTIONS, *swept, rows)
    for entry in found.chosen.values():
        assert (entry["iti"]["setting"]["alpha"], entry["iti"]["setting"]["k"]) == (5, 2)
        assert entry["iti"]["edge"] == []


def test_settings_of_one_bundle_are_counted_once(folds, swept, verdicts, tuned, monkeypatch):
    """As depths are that come to one layer."""
    for entries in tuned.chosen.values():
        assert (entries["iti"]["tried"], entries["iti"]["different"]) == (7, 7)
        assert (entries["like-fasb"]["tried"], entries["like-fasb"]["different"]) == (0, 0)
    # the two k would give the same, and not to steer is the seventh
    monkeypatch.setattr("fasb.steering.bundle.Bundle.key", lambda bundle: str(bundle.policy))
    found = tune(
        [fitted for fitted, _ in folds], {"iti": METHODS["iti"]}, QUESTIONS, *swept, verdicts
    )
    assert {entry["iti"]["different"] for entry in found.chosen.values()} == {4}


def test_only_the_ends_of_three_or_more_values_are_edges():
    grid = {
        "k": (2, 4),
        "alpha": (1, 5, 9),
        "s": (3,),
        "adaptive": (True, False),
        "vector": ("a", "b", "c"),
    }
    point = {"k": 2, "alpha": 9, "s": 3, "adaptive": True, "vector": "a"}
    assert at_edge(point, grid) == ["alpha"]
    assert at_edge({**point, "alpha": 5}, grid) == []


def test_the_choice_by_mc2_has_its_own_edge(tuned):
    for fold, entries in tuned.chosen.items():
        rows = tuned.grid[(tuned.grid["fold"] == int(fold[4:])) & (tuned.grid["method"] == "iti")]
        for key, column in (("edge", "chosen"), ("edge_mc2", "chosen_mc2")):
            alpha = rows[rows[column]]["alpha"].item()
            assert entries["iti"][key] == (["alpha"] if alpha in (1, 9) else [])


def test_the_grid_says_how_many_references_were_steered(tuned, swept):
    rows = swept[1][(swept[1]["method"] == "fasb") & (swept[1]["fold"] == 0)]
    grid = tuned.grid[(tuned.grid["method"] == "fasb") & (tuned.grid["fold"] == 0)].set_index(
        "setting"
    )
    for setting, part in rows.groupby("setting"):
        assert grid.loc[setting, "steered_mc"] == pytest.approx(part["fired"].mean())


def test_datasets_without_generation_are_tuned_on_accuracy(folds, swept):
    nothing = pd.DataFrame(columns=["question", "answer"])
    tuned = tune([fitted for fitted, _ in folds], METHODS, QUESTIONS, nothing, swept[1], nothing)
    for _, rows in tuned.grid.groupby(["fold", "method"]):
        assert rows[rows["chosen"]]["mc1"].item() == rows["mc1"].max()
    assert tuned.grid["true_info"].isna().all()


def test_answers_without_a_verdict_are_refused(folds, swept, verdicts):
    with pytest.raises(DataError, match="run the stage 'judge-sweep' again"):
        tune([fitted for fitted, _ in folds], METHODS, QUESTIONS, *swept, verdicts.iloc[1:])


def test_a_grid_that_was_not_swept_is_refused(folds, swept, verdicts):
    methods = {"iti": Method(**ALWAYS, grid={"k": (2, 4, 6)})}
    with pytest.raises(
        DataError,
        match="iti: results of 7 settings, but its grid has 4; run the stage 'sweep' again",
    ):
        tune([fitted for fitted, _ in folds], methods, QUESTIONS, *swept, verdicts)


def test_a_sweep_over_other_values_is_refused(folds, swept, verdicts):
    methods = {"iti": METHODS["iti"].model_copy(update={"grid": {"k": (2, 4), "alpha": (1, 5, 8)}})}
    with pytest.raises(
        DataError,
        match=r"fold 0, iti: ran with alpha 9\.0, but its grid has 8\.0; run the stage 'sweep'",
    ):
        tune([fitted for fitted, _ in folds], methods, QUESTIONS, *swept, verdicts)


@pytest.mark.parametrize("named", ["itti", "like-fasb"])
def test_a_method_like_none_that_is_tuned_is_refused(folds, swept, verdicts, named):
    methods = {**METHODS, "mine": Method(**FASB, like=named)}
    with pytest.raises(ConfigError, match=rf"methods\.mine\.like: '{named}' is not tuned here"):
        tune([fitted for fitted, _ in folds], methods, QUESTIONS, *swept, verdicts)


def test_folds_of_other_questions_are_refused(folds, swept, verdicts):
    with pytest.raises(DataError, match="which fold 0 was fitted on, is not among them"):
        tune([fitted for fitted, _ in folds], METHODS, QUESTIONS[:3], *swept, verdicts)


def test_a_method_is_read_from_json():
    values = {
        "use": "head_vectors",
        "settings": {},
        "grid": {"k": [2], "adaptive": [True]},
        "like": None,
    }
    assert validated(Method, values, "m").points()[0] == {"k": 2, "adaptive": True}
