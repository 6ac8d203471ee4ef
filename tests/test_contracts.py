"""What every dataset, method, gate and judge must do: a new file is tested by being there.

A file that needs other files to be tried gets them in `DATASETS` or `JUDGES` below.
"""

import itertools
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import reference_beyond
import reference_loop
import torch
from fits import fit_bundle, model_fits, some_questions, spoil
from published_sets import write_parquet
from pydantic import ValidationError
from steering import some_prompts
from test_data_choice_tasks import TASKS
from test_data_transfer_sets import CSV
from test_data_truthfulqa import write as write_truthfulqa
from tiny import tiny_checkpoint, tiny_model

from fasb.artifacts import write_tensors
from fasb.data.protocol import Question, check_questions, read_questions, write_questions
from fasb.decoding.decode import check, decode, decode_live, trace
from fasb.decoding.deviation import observe
from fasb.decoding.observe import logits_of
from fasb.decoding.score import Choice, score
from fasb.extensions import FUNCTION, find, known, settings_of, validated
from fasb.search import Method
from fasb.settings import DecodingSettings, PromptSettings, Section, StageSettings
from fasb.steering.bundle import Bundle
from fasb.steering.decide import highest_judged

WORLD = {"level": "middle", "seed": 5, "entities": 6}

PACKAGES = ("data", "methods", "gates", "judges")
EXTENSIONS = [(package, name) for package in PACKAGES for name in known(package)]
EXTENSIONS += [("data", "fasb.world.questions"), ("judges", "fasb.world.judge")]


def of(package):
    return [name for where, name in EXTENSIONS if where == package]


# ---- every extension


@pytest.fixture(params=EXTENSIONS, ids=lambda extension: "/".join(extension))
def extension(request):
    return request.param


def test_it_has_frozen_settings_one_function_and_a_docstring(extension):
    module = find(*extension)
    assert module.__doc__
    assert issubclass(module.Settings, Section)
    assert callable(getattr(module, FUNCTION[extension[0]]))
    assert getattr(module, FUNCTION[extension[0]]).__doc__


def test_its_settings_are_refused_by_name_and_cannot_be_changed(extension):
    module = find(*extension)
    with pytest.raises(ValidationError, match="no_such_key"):
        module.Settings(no_such_key=1)
    required = {
        name: "x" for name, field in module.Settings.model_fields.items() if field.is_required()
    }
    settings = module.Settings(**required)
    for name in module.Settings.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, name, None)


def test_its_settings_survive_json(extension):
    module = find(*extension)
    required = {
        name: "x" for name, field in module.Settings.model_fields.items() if field.is_required()
    }
    settings = module.Settings(**required)
    assert validated(module.Settings, settings.model_dump(mode="json"), "settings") == settings
    assert module.Settings.model_json_schema()


def test_reading_their_settings_needs_no_torch():
    lines = [f"settings = find({package!r}, {name!r}).Settings" for package, name in EXTENSIONS]
    names = ("torch", "transformers", "sklearn", "h5py")
    heavy = f"print([name for name in {names!r} if name in sys.modules])"
    code = "\n".join(["import sys", "from fasb.extensions import find", *lines, heavy])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---- datasets


def _table(folder: Path) -> dict:
    (folder / "t.csv").write_text("question,true,false\nwhy?,so;thus,no\nhow?,well,badly\n")
    return {"path": str(folder / "t.csv")}


def _truthfulqa(folder: Path) -> dict:
    return write_truthfulqa(folder).model_dump()


def _transfer(name: str):
    def write(folder: Path) -> dict:
        (folder / f"{name}.csv").write_text(CSV)
        return {"path": str(folder), "rows": "released"}

    return write


def _task(name: str):
    def write(folder: Path) -> dict:
        for file, rows in TASKS[name][1].items():
            write_parquet(folder / file, rows)
        return {"path": str(folder)}

    return write


DATASETS = {
    "table": _table,
    "truthfulqa": _truthfulqa,
    "fasb.world.questions": lambda _: WORLD,
    **{name: _transfer(name) for name in ("natural_questions", "trivia_qa")},
    **{name: _task(name) for name in TASKS},
}
"""For each dataset, what writes a small copy of it and gives the settings that read it."""


@pytest.fixture(
    params=[name for name in of("data") if name != "plain_text"]
)  # texts: tests/test_study_side_effects.py
def dataset(request, tmp_path):
    assert request.param in DATASETS, (
        "a new dataset: say in DATASETS how a small copy of it is made"
    )
    return find("data", request.param), settings_of(
        "data", request.param, DATASETS[request.param](tmp_path), ""
    )


def test_a_dataset_gives_the_same_valid_questions_each_time(dataset):
    module, settings = dataset
    questions = module.load(settings)
    check_questions(questions, "test")
    assert module.load(settings) == questions


def test_a_datasets_questions_are_read_as_written(dataset, tmp_path):
    module, settings = dataset
    questions = module.load(settings)
    write_questions(tmp_path / "q.parquet", questions, {})
    assert read_questions(tmp_path / "q.parquet") == questions


def test_a_dataset_gives_roles_to_all_its_questions_or_to_none(dataset):
    module, settings = dataset
    roles = {question.role for question in module.load(settings)}
    assert roles == {"any"} or roles <= {"fit", "test"}


# ---- methods and gates

SECTIONS = StageSettings(
    prompt=PromptSettings(stop=("e",)), decoding=DecodingSettings(tokens=8, batch=3)
)
POLICIES = {
    "token": {"when": "token", "s": 3},
    "without step back": {"when": "token", "s": 3, "backtrack": False},
    "prompt": {"when": "prompt"},
    "backtracking": {"when": "token", "s": 2, "backtracks": 3, "judged": "newest"},
}
"""What a gate's p may be asked for."""
UNGATED = {"after": {"after": 2}}
"""What may be asked for without a gate."""
VARIANTS = {
    "drawn": {"vector": "random", "heads": "random"},
    "neuron": {"variant": "neuron"},
}
"""What a method may draw from the seed, and the site that no default reads."""

ALONE = [(name, None, None) for name in known("methods")]
# one method for each of the positions of an edit
ALONE += list(itertools.product(("head_vectors", "ortho", "sadi"), [None], UNGATED))
ALONE.append(("sadi", None, "neuron"))
COMBINATIONS = list(itertools.product(known("gates"), POLICIES))
# each method under one gate and policy, in turn: what they do is up to the operation and the policy
GATED = [(name, *COMBINATIONS[i % len(COMBINATIONS)]) for i, name in enumerate(known("methods"))]
ONCE = ALONE + [("head_vectors", name, "token") for name in known("gates")]
SAE = Path(tempfile.mkdtemp()) / "sae.safetensors"


def few(package, name):
    """Small settings of an extension: two units, where it counts them."""
    fields = find(package, name).Settings.model_fields
    small = {key: 2 for key in ("k", "clusters") if key in fields}
    if "sae" in fields and not SAE.exists():
        rng = np.random.default_rng(0)
        shapes = {"W_enc": (24, 40), "b_enc": 40, "W_dec": (40, 24), "b_dec": 24}
        write_tensors(SAE, {key: rng.normal(size=size) for key, size in shapes.items()}, {})
    return small | ({"sae": str(SAE), "density": 1.0} if "sae" in fields else {})


def recipe_of(use, gate=None, policy=None, **settings):
    """The recipe of a method under a gate and a policy."""
    settings |= few("methods", use) | ((POLICIES | UNGATED | VARIANTS)[policy] if policy else {})
    settings |= few("gates", gate) if gate else {}
    entry = Method(use=use, gate=gate, settings=settings)
    return entry.recipe({}, SECTIONS, "test")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def fits(tmp_path_factory, model):
    return model_fits(tmp_path_factory.mktemp("fits"), model, some_questions(24))


def training_of(fits, model):
    return replace(fits.training(), sections=SECTIONS, model=lambda: model)


@pytest.fixture(scope="module")
def fitted(fits, model):
    """A bundle of a recipe; each distinct edit and tracker is fitted once."""
    training = training_of(fits, model)
    prompts = some_prompts(5, seed=3, longest=8)
    texts = [prompt for prompt in prompts if len(prompt) > 1]
    unsteered = trace(model, texts, SECTIONS.decoding, SECTIONS.prompt.stop)

    def strength(edit):
        """An alpha at which the edit matters, whatever its units."""
        for alpha in (0.3, 1.0, 3.0, 10.0, 30.0):
            gap = logits_of(model, texts[0], edit, alpha) - logits_of(model, texts[0])
            if gap.abs().max() > 3:
                break
        return alpha

    @cache
    def make(use, gate, policy):
        recipe = recipe_of(use, gate, policy)
        bundle = fit_bundle(training, recipe, model.fingerprint, {})
        tracker = bundle.tracker.to("cpu", torch.float64) if bundle.tracker is not None else None
        bundle = replace(bundle, edit=bundle.edit.to("cpu", torch.float64), tracker=tracker)
        changes = {"alpha": strength(bundle.edit)}
        if tracker is not None:
            # between two rows, so that some fire and others do not
            p = observe(model, texts, unsteered, [tracker])[0]
            traced = replace(unsteered, p=p)
            of_rows = p[:, 0] if policy == "prompt" else highest_judged(traced, bundle.policy)
            levels = np.unique(of_rows)
            above = levels[len(levels) // 2]
            below = max(levels[len(levels) // 2 - 1], above / 2)  # some are never judged
            changes["beta"] = float((above + below) / 2)
        return bundle.with_policy(**changes)

    return make, texts


@pytest.fixture(params=[*ALONE, *GATED], ids=lambda entry: "/".join(filter(None, entry)))
def steered(request, fitted):
    """A method's bundle under every gate and policy, and prompts."""
    make, texts = fitted
    return make(*request.param), texts


@pytest.fixture(params=ONCE, ids=lambda entry: "/".join(filter(None, entry)))
def steered_once(request, fitted):
    """A method's bundle, alone and under every gate, and prompts."""
    make, texts = fitted
    return make(*request.param), texts


@pytest.fixture(params=known("methods"))
def method(request):
    return request.param


@pytest.fixture(
    params=[(name, None) for name in known("methods")]
    + [("head_vectors", None, "drawn"), ("sadi", None, "neuron")]
    + [("head_vectors", name) for name in known("gates")],
    ids=lambda pair: "/".join(filter(None, pair)),
)
def pair(request):
    """Each method alone, and each gate with one method."""
    return request.param


def content_of(bundle):
    parts = [part.content() for part in (bundle.edit, bundle.tracker) if part is not None]
    return b"".join(parts)


def test_fitting_gives_the_same_each_time(pair, fits, model):
    found = []
    for _ in range(2):
        bundle = fit_bundle(training_of(fits, model), recipe_of(*pair), model.fingerprint, {})
        found.append(content_of(bundle))
    assert found[0] == found[1]


def test_fitting_sees_no_test_question(pair, fits, model, tmp_path):
    """Neither the activations nor the labels of the fold's test rows."""
    recipe = recipe_of(*pair)
    spoiled = model_fits(tmp_path, model, some_questions(24))
    for read in recipe.reads():
        spoiled.banks[read] = spoil(spoiled.bank(read), spoiled.splits[0].test)
    mine, other = (
        fit_bundle(training_of(one, model), recipe, model.fingerprint, {})
        for one in (fits, spoiled)
    )
    assert content_of(mine) == content_of(other)
    # and what is fitted on is seen
    for read in recipe.reads():
        spoiled.banks[read] = spoil(spoiled.bank(read), spoiled.splits[0].train)
    training = training_of(spoiled, model)
    turned = [
        replace(one, text=one.text + " ?", true=one.false, false=one.true, best=one.false[0])
        for one in training.questions
    ]
    last = fit_bundle(replace(training, questions=tuple(turned)), recipe, model.fingerprint, {})
    assert content_of(last) != content_of(mine)


def test_it_reads_only_what_it_says(pair, fits, model):
    recipe = recipe_of(*pair)
    asked = []

    def bank(read):
        asked.append(read)
        return fits.bank(read)

    fit_bundle(replace(training_of(fits, model), banks=bank), recipe, model.fingerprint, {})
    assert set(asked) <= set(recipe.reads())


def test_its_bundle_can_be_attached_and_says_what_it_was_made_with(pair, fits, model):
    recipe = recipe_of(*pair)
    bundle = fit_bundle(training_of(fits, model), recipe, model.fingerprint, {"fold": 0})
    check(model, bundle)
    assert bundle.about == {"fold": 0, "settings": recipe.settings()}
    assert (bundle.prompt, bundle.decoding) == (SECTIONS.prompt, SECTIONS.decoding)
    for change in bundle.edit.changes:
        assert change.at.dtype == torch.int64
        assert len(change.at.unique(dim=0)) == len(change.at)


def test_strength_0_is_the_plain_model_to_the_bit_and_another_is_not(method, fitted, model):
    make, texts = fitted
    for dtype in ("float64", "float32"):
        one = model if dtype == "float64" else tiny_model(dtype=dtype)
        edit = make(method, None, None).edit
        for text in texts:
            plain = logits_of(one, text)
            assert torch.equal(logits_of(one, text, edit, 0.0), plain)
            assert not torch.equal(logits_of(one, text, edit, 1.0), plain)


def test_answers_at_strength_0_are_the_plain_ones(steered_once, model):
    bundle, texts = steered_once
    unsteered = trace(model, texts, bundle.decoding, bundle.prompt.stop).rows()
    zero = bundle.with_policy(alpha=0.0)
    assert decode_live(model, texts, zero).after.rows() == unsteered
    assert decode(model, texts, zero).after.rows() == unsteered


def test_answers_are_those_of_the_plain_loop(steered, model):
    bundle, texts = steered
    if bundle.policy.once:
        found = [reference_loop.answer(model, text, bundle) for text in texts]
        expected = [(row.tokens, int(row.fired)) for row in found]
    else:
        rows = [reference_beyond.answer_beyond(model, text, bundle) for text in texts]
        expected = [row[:2] for row in rows]
    for run in (decode, decode_live):
        answers = run(model, texts, bundle)
        rounds = answers.rounds.tolist()
        assert list(zip(answers.after.rows(), rounds, strict=True)) == expected
    assert bundle.policy.when == "always" or 0 < answers.decision.fired.sum() < len(texts)


def test_a_batch_gives_what_its_rows_give_alone(steered_once, model):
    bundle, texts = steered_once
    together = decode_live(model, texts, bundle)
    for i, text in enumerate(texts):
        alone = decode_live(model, [text], bundle)
        assert alone.after.rows()[0] == together.after.rows()[i]
        assert alone.rounds[0] == together.rounds[i]


def test_scores_are_those_of_the_plain_loop(steered_once, model):
    bundle, texts = steered_once
    choices = []
    for i, text in enumerate(texts):
        tokens = (*text, *range(20, 26 + i))
        choices.append(Choice(tokens, len(text) - 1, len(text)))
    scores = score(model, choices, bundle, batch=2)
    for i, choice in enumerate(choices):
        logprob, fired, _ = reference_loop.choose(
            model, list(choice.tokens), choice.first_state, choice.scored_start, bundle
        )
        assert scores.logprob[i] == pytest.approx(logprob, abs=1e-8)
        assert scores.fired[i] == fired


def test_its_bundle_is_loaded_as_saved(steered_once, model, tmp_path):
    bundle, texts = steered_once
    bundle.save(tmp_path / "one.bundle")
    loaded = Bundle.load(tmp_path / "one.bundle")
    assert loaded.key() == bundle.key()
    assert asdict(loaded.policy) == asdict(bundle.policy)
    assert (loaded.fingerprint, loaded.about) == (bundle.fingerprint, bundle.about)
    assert (
        decode_live(model, texts[:2], loaded).after.rows()
        == decode_live(model, texts[:2], bundle).after.rows()
    )


# ---- judges

MOON = Question(
    "m", "What is the moon made of?", ("It is rock.", "Rock."), ("It is cheese.",), "Rock.", "m"
)
ANSWERS = ["Rock.", "It is cheese.", "", "I have no comment.", "Nobody knows what it is made of."]


def _small_models(folder: Path) -> dict:
    model = {"path": str(tiny_checkpoint(folder)), "device": "cpu", "dtype": "float32"}
    return {"truth": model, "info": model, "batch": 2}


def _sacrebleu(_: Path) -> dict:
    pytest.importorskip("sacrebleu")
    return {}


JUDGES = {
    "causal_lm": _small_models,
    "similarity": _sacrebleu,
    "fasb.world.judge": lambda _: WORLD,
    "light": lambda _: pytest.skip("is trained first: tests/test_judges.py"),
}
"""For each judge, what makes the files that it needs and gives its settings."""


@pytest.fixture(params=of("judges"))
def judge(request, tmp_path):
    assert request.param in JUDGES, "a new judge: say in JUDGES which settings it is tried with"
    module = find("judges", request.param)
    settings = settings_of("judges", request.param, JUDGES[request.param](tmp_path), "")
    question = MOON
    if request.param == "fasb.world.judge":
        question = find("data", "fasb.world.questions").load(settings)[0]
    return lambda answers: module.judge([question] * len(answers), answers, settings)


def test_a_judge_gives_each_answer_a_score_from_0_to_1(judge):
    scores = judge(ANSWERS)
    assert scores
    assert set(scores) <= {"true", "info"}
    for values in scores.values():
        assert values.shape == (len(ANSWERS),)
        assert ((values >= 0) & (values <= 1)).all()


def test_a_judge_says_the_same_each_time_and_in_any_order(judge):
    forth, back = judge(ANSWERS), judge(ANSWERS[::-1])
    for kind, values in forth.items():
        assert np.allclose(values, back[kind][::-1], atol=1e-6)
        assert np.array_equal(values, judge(ANSWERS)[kind])


def test_a_judge_of_no_answers_gives_no_scores(judge):
    assert {values.shape for values in judge([]).values()} == {(0,)}
