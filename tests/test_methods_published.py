"""What defines the methods of other papers, computed anew (docs/method.md 3.5 to 3.19)."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import reference_model
import torch
from fits import fit_bundle, model_fits, some_fits
from sklearn.linear_model import LogisticRegression
from test_methods import PROMPTS, RESIDUAL, SECTIONS, seen_while_writing, train_of
from tiny import tiny_model, tiny_questions

from fasb.artifacts import write_tensors
from fasb.data.prompts import generation_prompt
from fasb.decoding.observe import logits_of
from fasb.errors import ArtifactError, ConfigError
from fasb.fitting import learning
from fasb.fitting.bank import Bank
from fasb.fitting.learning import answer_log_probability, answer_pairs, answer_texts
from fasb.fitting.reads import HEAD_READS, TAIL, Read
from fasb.hdf5files import seal
from fasb.methods import lineas, ta2
from fasb.model.hooks import recording
from fasb.model.load import load_model
from fasb.search import Method
from fasb.settings import ModelSettings, PromptSettings
from fasb.user.compiling import compile_bundle


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def fits(tmp_path_factory, model):
    return model_fits(tmp_path_factory.mktemp("fits"), model, tiny_questions(16))


def training_of(fits, model):
    return replace(fits.training(), sections=SECTIONS, model=lambda: model)


def bundle_of(fits, model, use, **settings):
    recipe = Method(use=use, settings=settings).recipe({}, SECTIONS, "test")
    # of the bank's model: some banks here are of another shape than the one that is at hand
    fingerprint = fits.bank(HEAD_READS[0]).fingerprint
    bundle = fit_bundle(training_of(fits, model), recipe, fingerprint, {})
    return replace(bundle, edit=bundle.edit.to("cpu", torch.float64))


def change_of(fits, model, use, **settings):
    (change,) = bundle_of(fits, model, use, **settings).edit.changes
    return change


def prompts_of(fits, model):
    """What the training questions ask, as tokens."""
    train = set(fits.splits[0].train)
    texts = [generation_prompt(SECTIONS.prompt, q.text) for q in fits.questions if q.id in train]
    return model.encode(texts)


def plain_run(model, prompt):
    """Hidden states behind each layer, and the distribution of the next token."""
    out = model.model(torch.tensor([prompt]), output_hidden_states=True)
    return [h[0, -1] for h in out.hidden_states[1:]], out.logits[0, -1].log_softmax(-1)


def write_states(bank, change):
    """Let `change` write over a bank's activations [answer, layer, unit, width]."""
    with h5py.File(bank.path, "r+") as file:
        x = file["activations"][:]
        change(x, file["label"][:], file["question"].asstr()[:])
        file["activations"][:] = x
    seal(bank.path)
    return Bank.open(bank.path)


# Two clusters of questions that differ in two ways


@pytest.fixture
def two_kinds(tmp_path):
    """Questions of two kinds: where they are, and where truth points, differs."""
    fits = some_fits(tmp_path, shape=(2, 1, 6))

    def change(x, label, question):
        rng = np.random.default_rng(0)
        kind = np.array([int(name[1:]) % 2 for name in question])
        sign = 2.0 * label - 1
        x[:] = 0.1 * rng.normal(size=x.shape)
        x[:, :, 0, 0] += 3.0 * (2 * kind - 1)[:, None]  # where they are
        x[:, :, 0, 1] += (sign * (kind == 0))[:, None]  # truth, of the first kind
        x[:, :, 0, 2] += (sign * (kind == 1))[:, None]  # and of the second

    for read in (*HEAD_READS, RESIDUAL):
        fits.banks[read] = write_states(fits.bank(read), change)
    return fits


def test_act_has_a_direction_for_each_cluster_from_its_own_answers(two_kinds, model):
    edit = bundle_of(two_kinds, model, "act", k=1, clusters=2).edit
    assert len(edit.changes) == 2
    along = []
    for change in edit.changes:
        weight, vector = change.operation.weight[0], change.operation.vector[0]
        # unit weight times a positive sigma
        assert torch.nn.functional.cosine_similarity(weight, vector, 0) == pytest.approx(1)
        along.append(int(weight.abs().argmax()))
    assert sorted(along) == [1, 2]


def test_act_fits_a_head_whose_answers_never_differ(two_kinds, model):
    def silence(x, label, question):
        x[:, 0] = 0.0  # as of a head that was pruned

    for read in HEAD_READS:
        two_kinds.banks[read] = write_states(two_kinds.bank(read), silence)
    for change in bundle_of(two_kinds, model, "act", k=2, clusters=2).edit.changes:
        length = dict(zip(map(tuple, change.at.tolist()), change.operation.vector.norm(dim=1)))
        assert length[0, 0] == 0  # no direction, so no effect
        assert length[1, 0] > 0


def test_act_is_the_probe_and_sigma_of_all_answers_where_there_is_one_cluster(fits, model):
    change = change_of(fits, model, "act", k=3, clusters=1)
    x, label, _ = train_of(fits, HEAD_READS[0])
    behind = fits.bank(HEAD_READS[1])
    rows = behind.rows(fits.splits[0].train)
    for i, (layer, head) in enumerate(change.at.tolist()):
        probe = LogisticRegression(tol=1e-10, max_iter=10**6).fit(x[:, layer, head], label)
        unit = probe.coef_[0] / np.linalg.norm(probe.coef_[0])
        sigma = (behind.layer(layer)[rows, head].astype(np.float64) @ unit).std()
        np.testing.assert_allclose(change.operation.weight[i], probe.coef_[0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(change.operation.vector[i], sigma * unit, rtol=1e-3, atol=1e-5)
        assert float(change.operation.bias[i]) == pytest.approx(probe.intercept_[0], abs=1e-4)


def test_g_act_adds_the_difference_of_the_kind_that_a_state_is_of(two_kinds, model):
    operation = change_of(two_kinds, model, "g_act", clusters=2, first=0, last=0).operation
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for kind, entry in ((-1, 1), (1, 2)):
        x = torch.zeros(1, 1, 1, 6, dtype=torch.float64)
        x[..., 0] = 3.0 * kind
        delta = operation.delta(x, one)[0, 0, 0]
        assert int(delta.abs().argmax()) == entry
        assert float(delta[entry]) == pytest.approx(2, abs=0.2)  # mean(true) - mean(false)


@pytest.mark.parametrize("use", ["act", "g_act"])
def test_more_clusters_than_questions_are_refused(two_kinds, model, use):
    with pytest.raises(ConfigError, match="clusters: 99, but .* questions to fit .*; lower it"):
        bundle_of(two_kinds, model, use, clusters=99)


# NL-ITI


def test_nl_iti_finds_the_head_that_tells_truth_by_no_plane(tmp_path, model):
    fits = some_fits(tmp_path, shape=(2, 3, 5), n=60)

    def change(x, label, _question):
        rng = np.random.default_rng(0)
        x[:] = rng.normal(size=x.shape)
        # true where the first two entries have one sign: a linear probe is at chance
        a, b = rng.choice([-1.0, 1.0], size=(2, len(x)))
        b = np.where(label == 1, a, -a)
        x[:, 1, 2, 0] = a + 0.1 * x[:, 1, 2, 0]
        x[:, 1, 2, 1] = b + 0.1 * x[:, 1, 2, 1]

    for read in (*HEAD_READS, Read("head", "answer_tail")):
        fits.banks[read] = write_states(fits.bank(read), change)
    assert change_of(fits, model, "nl_iti", k=1).at.tolist() == [[1, 2]]


def test_a_tail_is_the_mean_over_an_answers_last_tokens(fits, model):
    tail, end = fits.bank(Read("head", "answer_tail")), fits.bank(Read("head", "answer_end"))
    with h5py.File(end.path) as file:
        answers = file["answer"].asstr()[:]
    question = {one.id: one.text for one in fits.questions}
    for row in (0, 1, 5):
        text = f"Q: {question[end.question[row]]} A: {answers[row]}"
        with recording(model.layout, "head") as recorder:
            model.model(torch.tensor(model.encode([text])))
            x = recorder.pop()[0]
        for layer in range(3):
            expected = x[-TAIL:, layer].mean(0)
            np.testing.assert_allclose(tail.layer(layer)[row], expected, rtol=0, atol=1e-5)


# MERA


@pytest.mark.parametrize("bound", [0.05, 0.4])
def test_mera_leaves_no_predicted_error_above_its_bound_and_what_is_below_as_it_is(
    fits, model, monkeypatch, bound
):
    x, label, _ = train_of(fits, RESIDUAL)
    probes = [
        LogisticRegression(tol=1e-10, max_iter=10**6).fit(x[:, i, 0], label) for i in range(3)
    ]
    bundle = bundle_of(fits, model, "mera", bound=bound, alpha=1)
    n_above = n_below = 0
    passes = seen_while_writing(model, PROMPTS[0], bundle, "residual", monkeypatch)
    for number, layers in enumerate(passes):
        for probe, (before, behind) in zip(probes, layers, strict=True):
            first = len(before) - 1 if number == 0 else 0
            before, behind = before[first:, 0].numpy(), behind[first:, 0].numpy()
            error = probe.predict_proba(before)[:, 0]
            above = error > bound
            n_above, n_below = n_above + above.sum(), n_below + (~above).sum()
            np.testing.assert_allclose(
                probe.predict_proba(behind)[:, 0], np.minimum(error, bound), rtol=0, atol=1e-3
            )
            np.testing.assert_allclose(behind[~above], before[~above], rtol=0, atol=1e-3)
    assert n_above
    assert n_below or bound == 0.05


# EAST, ASC


def test_east_is_the_entropy_weighted_mean_of_prompts_ends(fits, model):
    total, weight = 0, 0
    for prompt in prompts_of(fits, model):
        states, logprob = plain_run(model, prompt)
        entropy = -(logprob.exp() * logprob).sum()
        total, weight = total + entropy * states[1], weight + entropy
    vector = change_of(fits, model, "east", layer=0.5).operation.vector[0]
    torch.testing.assert_close(vector, (total / weight).detach(), rtol=1e-4, atol=1e-5)


def test_asc_spends_its_budget_at_strength_1(fits, model):
    """To second order: a quarter of it at strength one half."""
    budget = 1e-3
    change = change_of(fits, model, "asc", layer=0.5, budget=budget)
    edit = bundle_of(fits, model, "asc", layer=0.5, budget=budget).edit
    for strength in (0.5, 1.0):
        kl = []
        for prompt in prompts_of(fits, model):
            at = [len(prompt) - 1]
            plain, steered = (
                reference_model.run(model, prompt, edit, s, at)[0][-1].log_softmax(-1)
                for s in (0.0, strength)
            )
            kl.append(float((plain.exp() * (plain - steered)).sum()))
        assert np.mean(kl) == pytest.approx(budget * strength**2, rel=0.1)
    x, label, question = train_of(fits, RESIDUAL)
    pairs = []
    for one in dict.fromkeys(question):
        own = question == one
        pairs.append(x[own & (label == 1), 1, 0].mean(0) - x[own & (label == 0), 1, 0].mean(0))
    mean = torch.from_numpy(np.mean(pairs, axis=0))
    cosine = torch.nn.functional.cosine_similarity(mean, change.operation.vector[0], 0)
    assert cosine == pytest.approx(1)


# LinEAS, LoReFT, WAS: learned


def test_a_chat_is_learned_from_in_the_models_own_prompt(fits, model, monkeypatch):
    template = (
        "<s>{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    sections = SECTIONS.model_copy(update={"prompt": PromptSettings(chat="on")})
    training = replace(training_of(fits, model), sections=sections)
    for text in answer_texts(training, model):
        assert text.tokens.count(model.tokenizer.bos_token_id) == 1
        assert model.decode(text.tokens).startswith("user: ")
        assert "assistant:" in model.decode(text.tokens[: text.start])


def test_what_a_template_puts_behind_an_answer_is_not_learned(fits, model):
    prompt = PromptSettings(answer="\nA: {answer}\nQ: Next?")
    training = training_of(fits, model)
    cut = replace(training, sections=SECTIONS.model_copy(update={"prompt": prompt}))
    found, plain = answer_texts(cut, model), answer_texts(training, model)
    assert [text.tokens for text in found] == [text.tokens for text in plain]
    assert [text.start for text in found] == [text.start for text in plain]


def test_lineas_brings_the_false_answers_states_to_where_the_true_ones_are(fits, model):
    """Layer by layer, the edits of the layers before in force."""
    edit = bundle_of(fits, model, "lineas", sparsity=0.0).edit
    texts = answer_texts(training_of(fits, model), model)
    n = min(sum(text.true for text in texts), sum(not text.true for text in texts))
    true, false = ([t for t in texts if t.true is kind][:n] for kind in (True, False))

    def states(some, strength):
        found = []
        for text in some:
            at = range(text.start - 1, len(text.tokens))
            with recording(model.layout, "residual") as recorder:
                reference_model.run(model, list(text.tokens), edit, strength, at)
                x = recorder.pop()[0, -1, :, 0]
            operation = edit.changes[0].operation
            found.append(x + strength * (operation.weight * x + operation.bias - x))
        return torch.stack(found)

    goal, plain, steered = states(true, 0.0), states(false, 0.0), states(false, 1.0)
    before, after = (
        ((x.sort(0).values - goal.sort(0).values) / plain.std(0)).square().mean()
        for x in (plain, steered)
    )
    assert after < 0.5 * before


def test_lineas_draws_its_answers(fits, model, monkeypatch):
    """The first ones would be answers to few questions."""
    monkeypatch.setattr(lineas, "MOST", 3)
    asked, read = [], learning.last_states

    def spied(model, prompts, site):
        asked.append(prompts)
        return read(model, prompts, site)

    monkeypatch.setattr(learning, "last_states", spied)
    bundle_of(fits, model, "lineas")
    texts = answer_texts(training_of(fits, model), model)
    for kind, prompts in zip((True, False), asked, strict=True):
        known = [text.tokens for text in texts if text.true is kind]
        assert len(prompts) == 3 < len(known)
        assert set(prompts) < set(known)
        assert set(prompts) != set(known[:3])


def test_lineas_with_a_high_threshold_leaves_everything(fits, model):
    operation = change_of(fits, model, "lineas", sparsity=1.0).operation
    assert torch.equal(operation.weight, torch.ones_like(operation.weight))
    assert not operation.bias.any()


def test_loreft_makes_true_answers_likelier_by_a_few_orthonormal_directions(fits, model):
    bundle = bundle_of(fits, model, "loreft", rank=3)
    basis = bundle.edit.changes[0].operation.basis[0]
    torch.testing.assert_close(basis @ basis.T, torch.eye(3).double(), rtol=0, atol=1e-5)
    texts = [text for text in answer_texts(training_of(fits, model), model) if text.true]
    plain, steered = (answer_log_probability(model, texts, edit) for edit in (None, bundle.edit))
    assert steered.mean() > plain.mean() + 1
    with pytest.raises(ConfigError, match="rank: 25, but the residual stream has 24 entries"):
        bundle_of(fits, model, "loreft", rank=25)


def test_was_makes_true_answers_likelier_than_false_ones(fits, model):
    edit = bundle_of(fits, model, "was").edit
    pairs = answer_pairs(training_of(fits, model), model)
    gain = []
    for with_edit in (None, edit):
        texts = [text for pair in pairs for text in pair]
        logprob = answer_log_probability(model, texts, with_edit).reshape(-1, 2)
        gain.append(torch.nn.functional.softplus(logprob[:, 1] - logprob[:, 0]).mean())
    assert gain[1] < gain[0]
    x, label, _ = train_of(fits, RESIDUAL)
    vector = torch.from_numpy((x[label == 1].mean(0) - x[label == 0].mean(0))[:, 0])
    torch.testing.assert_close(edit.changes[0].operation.vector, vector, rtol=1e-4, atol=1e-5)


def test_what_is_learned_is_scored_as_the_plain_loop_does(fits, model):
    edit = bundle_of(fits, model, "caa").edit
    texts = answer_texts(training_of(fits, model), model)[:5]
    for one in (None, edit):
        found = answer_log_probability(model, texts, one)
        for text, logprob in zip(texts, found.tolist(), strict=True):
            at = range(text.start - 1, len(text.tokens))
            expected = reference_model.logprob(model, list(text.tokens), text.start, one, 1.0, at)
            assert logprob == pytest.approx(expected, abs=1e-4)
    assert [model.decode(text.tokens[text.start :]).strip() for text in texts[:2]] == [
        next(q for q in fits.questions if q.id == texts[0].question).references[i] for i in (0, 1)
    ]


# CASAL


def test_casal_adds_the_mean_difference_as_far_as_a_regression_says_false(fits, model, tmp_path):
    bundle = bundle_of(fits, model, "casal", layer=0.5, alpha=1)
    (change,) = bundle.edit.changes
    assert (change.site, change.at.tolist()) == ("mlp", [[1, 0]])
    x, label, _ = train_of(fits, Read("mlp"))
    stream, *_ = train_of(fits, RESIDUAL)
    vector = stream[label == 1].mean(0)[1, 0] - stream[label == 0].mean(0)[1, 0]
    y = torch.from_numpy(x[:, 1, 0].astype(np.float64))
    delta = change.operation.delta(y[None, :, None], torch.ones(1, len(y), 1, 1))[0, :, 0].numpy()
    # along the vector alone, and nothing where there is nothing
    needed = delta @ vector / (vector @ vector)
    np.testing.assert_allclose(delta, needed[:, None] * vector, atol=1e-5 * abs(delta).max())
    # the ridge regression of its own penalty: w = (Y'Y + c)^-1 Y't for one c
    gradient = y.numpy().T @ ((label == 0) - needed)
    w, *_ = np.linalg.lstsq(y.numpy(), needed, rcond=None)
    along = w @ gradient / (w @ w)
    assert along > 0
    np.testing.assert_allclose(gradient, along * w, atol=1e-3 * abs(gradient).max())
    assert needed[label == 0].mean() > needed[label == 1].mean() + 0.1
    # the weights hold it
    always = replace(bundle, policy=replace(bundle.policy, when="always"))
    text = prompts_of(fits, model)[0]
    wanted = logits_of(model, text, always.edit, 1.0)
    compile_bundle(tiny_model(), always, tmp_path / "out")
    compiled = load_model(ModelSettings(path=str(tmp_path / "out"), dtype="float64"))
    torch.testing.assert_close(logits_of(compiled, text), wanted, rtol=0, atol=1e-4)


# ThinkEdit, GrAInS


def test_thinkedit_lets_its_heads_write_nothing_along_the_direction(fits, model, monkeypatch):
    x, label, _ = train_of(fits, Read("attention"))
    raw = (x[label == 0].mean(0) - x[label == 1].mean(0))[:, 0]
    bundle = bundle_of(fits, model, "thinkedit", k=3, alpha=1)
    heads, _, _ = train_of(fits, HEAD_READS[0])
    chosen = [tuple(place) for place in bundle.edit.changes[0].at.tolist()]
    written = {}
    for layer, projection in enumerate(model.layout.projections):
        weight = projection.weight.detach().numpy().reshape(24, 4, 8)
        for head in range(4):
            out = heads[label == 0, layer, head] @ weight[:, head].T
            written[layer, head] = (out @ raw[layer] / np.linalg.norm(raw[layer])).mean()
    assert chosen == sorted(written, key=lambda place: -written[place])[:3]
    for layers in seen_while_writing(model, PROMPTS[0], bundle, "head", monkeypatch):
        for layer, head in chosen:
            weight = model.layout.projections[layer].weight.detach().reshape(24, 4, 8)[:, head]
            before, behind = (
                x[:, head] @ weight.T @ torch.from_numpy(raw[layer]) for x in layers[layer]
            )
            assert before.abs().max() > 1e-2
            assert behind.abs().max() < 1e-4 * before.abs().max()


def test_grains_attributions_add_up_to_what_the_prompt_adds(fits, model):
    """Completeness of integrated gradients: their sum is f(prompt) - f(padding)."""
    text = answer_texts(training_of(fits, model), model)[0]
    found = learning.attribution(model, text, steps=400)
    assert found.shape == (text.start,)

    def logprob(prompt):
        tokens = [*prompt, *text.tokens[text.start :]]
        out = model.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        return sum(float(out[t - 1, tokens[t]]) for t in range(text.start, len(tokens)))

    with torch.no_grad():
        whole = logprob(text.tokens[: text.start])
        nothing = logprob([model.pad] * text.start)
    assert abs(whole - nothing) > 0.05
    assert float(found.sum()) == pytest.approx(whole - nothing, rel=0.02)


def test_grains_steers_along_unit_vectors_and_keeps_a_states_length(fits, model, monkeypatch):
    bundle = bundle_of(fits, model, "grains", alpha=3.0)
    vector = bundle.edit.changes[0].operation.vector
    torch.testing.assert_close(vector.norm(dim=-1), torch.ones(3).double(), rtol=1e-5, atol=0)
    for layers in seen_while_writing(model, PROMPTS[0], bundle, "residual", monkeypatch):
        for before, behind in layers:
            torch.testing.assert_close(behind.norm(dim=-1), before.norm(dim=-1))
            assert not torch.equal(before[-1], behind[-1])


# TA2, FGAA


def test_ta2_is_minus_the_mean_difference_where_the_kinds_diverge_most(fits, model):
    change = change_of(fits, model, "ta2")
    x, label, _ = train_of(fits, RESIDUAL)
    true, false = x[label == 1].mean(0)[:, 0], x[label == 0].mean(0)[:, 0]
    p, q = (torch.from_numpy(part).softmax(-1) for part in (true, false))
    middle = (p + q) / 2
    score = ((p * (p / middle).log()).sum(-1) + (q * (q / middle).log()).sum(-1)) / 2
    layer = int(score[:2].argmax())  # of three, the first two
    assert change.at.tolist() == [[layer, 0]]
    np.testing.assert_allclose(
        change.operation.vector[0], (false - true)[layer], rtol=1e-4, atol=1e-5
    )
    assert ta2.divergence(true[0], true[0]) == 0
    assert ta2.divergence(true[0], false[0]) == pytest.approx(float(score[0]))


@pytest.mark.parametrize(("tokens", "rest"), [(1, 0.0), (1, 1.0), (2, 0.25)])
def test_shallowjail_adds_unit_vectors_towards_false_behind_all_layers_but_the_first(
    fits, model, monkeypatch, tokens, rest
):
    x, label, _ = train_of(fits, RESIDUAL)
    away = (x[label == 0].mean(0) - x[label == 1].mean(0))[:, 0]
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    away[0] = 0
    bundle = bundle_of(fits, model, "shallowjail", tokens=tokens, rest=rest, alpha=3.0)
    passes = seen_while_writing(model, PROMPTS[0], bundle, "residual", monkeypatch)
    for number, layers in enumerate(passes):
        for layer, (before, behind) in enumerate(layers):
            added = (behind - before)[-1, 0].numpy()
            expected = 3 * away[layer] * (1 if number < tokens else rest)
            np.testing.assert_allclose(added, expected, rtol=1e-4, atol=1e-5)


def autoencoder(path, width=24):
    """Each entry has two features, its positive and its negative part."""
    both = np.concatenate([np.eye(width), -np.eye(width)])
    tensors = {
        "W_enc": both.T,
        "b_enc": np.zeros(2 * width),
        "W_dec": both,
        "b_dec": np.zeros(width),
    }
    write_tensors(path, {name: np.ascontiguousarray(x) for name, x in tensors.items()}, {})
    return str(path)


def test_fgaa_is_the_mean_difference_where_the_autoencoder_keeps_everything(fits, model, tmp_path):
    sae = autoencoder(tmp_path / "sae.safetensors")
    x, label, _ = train_of(fits, RESIDUAL)
    mean = (x[label == 1].mean(0) - x[label == 0].mean(0))[1, 0]
    whole = change_of(fits, model, "fgaa", sae=sae, k=48, density=1.0).operation.vector[0]
    np.testing.assert_allclose(whole, mean, rtol=1e-4, atol=1e-5)
    one = change_of(fits, model, "fgaa", sae=sae, k=1, density=1.0).operation.vector[0]
    assert np.count_nonzero(one) == 1
    # dense features are left out
    share = np.concatenate([x[:, 1, 0] > 0, x[:, 1, 0] < 0], axis=1).mean(0)
    sparse = change_of(fits, model, "fgaa", sae=sae, k=48, density=0.3).operation.vector[0]
    assert set(np.flatnonzero(sparse)) <= set(np.flatnonzero(share <= 0.3) % 24)
    with pytest.raises(ArtifactError, match="of width 5, but the residual stream's is 24"):
        change_of(fits, model, "fgaa", sae=autoencoder(tmp_path / "other.safetensors", 5))
