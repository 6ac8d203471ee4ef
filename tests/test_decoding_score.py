from dataclasses import replace

import checkpoints
import numpy as np
import pytest
import reference_loop
import reference_model
from steering import some_bundle
from tiny import DEVICE, TEXTS, tiny_model, tiny_tokenizer

from fasb.decoding.observe import score_again, score_batch
from fasb.decoding.score import Choice, encode_choices, score, score_sweep
from fasb.errors import BundleError, DataError
from fasb.model.load import wrap
from fasb.settings import PromptSettings, ScoringSettings

PROMPT = PromptSettings(prefix="Q: Why? A: I have no comment.\n\n")
ANSWERS = (
    "The sky is blue.",
    "no",
    "I have no comment.",
    "Nobody lives there, and then it jumps over the dog.",
)
PAIRS = [("Who lives in the old house?", answer) for answer in ANSWERS] + [
    ("What is the colour of the sky?", "blue")
]
RELEASED = ScoringSettings(start="released", span="released")


def word_tokenizer():
    """Words and punctuation, one token each, in a closed vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.WordLevelTrainer(
        special_tokens=["<s>", "</s>", "<pad>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *ANSWERS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


TOKENIZERS = {"words": word_tokenizer, "byte-level BPE": tiny_tokenizer, **checkpoints.TOKENIZERS}


def with_tokenizer(name):
    model, tokenizer = tiny_model().model, TOKENIZERS[name]()
    model.resize_token_embeddings(len(tokenizer))
    return wrap(model, tokenizer, name)


def spaceless(text):
    return "".join(text.split())


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ["\nA: {answer}", "\nA: {answer}\n\nQ:", " {answer} ?"])
def test_scored_tokens_decode_exactly_to_the_answer(name, template):
    model = with_tokenizer(name)
    prompt = PROMPT.model_copy(update={"answer": template})
    for choice, (_, answer) in zip(
        encode_choices(model, prompt, ScoringSettings(), PAIRS), PAIRS, strict=True
    ):
        scored = model.decode(choice.tokens[choice.scored_start :])
        # words are decoded with spaces before punctuation
        assert (spaceless(scored) if name == "words" else scored.strip()) == (
            spaceless(answer) if name == "words" else answer
        )
        assert choice.first_state == choice.scored_start - 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_choices_are_the_tokens_of_the_prompt_with_the_answer(name):
    model = with_tokenizer(name)
    for choice, (question, answer) in zip(
        encode_choices(model, PROMPT, ScoringSettings(), PAIRS), PAIRS, strict=True
    ):
        text = PROMPT.prefix + f"Q: {question}\nA: {answer}"
        assert list(choice.tokens) == model.encode([text])[0]


def test_a_space_that_is_a_token_counts_with_the_answer():
    model = with_tokenizer("llama2")
    for answer in ("10 of us.", "Nobody.", "The sky."):
        (choice,) = encode_choices(model, PROMPT, ScoringSettings(), [("Why?", answer)])
        first = choice.tokens[choice.scored_start]
        piece = model.tokenizer.convert_ids_to_tokens(first)
        assert piece.startswith("\u2581")
        assert piece == "\u2581" or not answer[0].isdigit()
        assert model.decode(choice.tokens[choice.scored_start :]).strip() == answer
        # as if the model had written it: nothing of "A:" and nothing between is left over
        opened = model.encode([f"{PROMPT.prefix}Q: Why?\nA:"])[0]
        assert choice.tokens[: choice.scored_start] == tuple(opened)
        assert choice.first_state == len(opened) - 1


def test_answers_of_which_no_token_is_scored_are_refused(model):
    # the released span begins three tokens behind the question, where an answer of labels has ended
    labels = PromptSettings(answer="{answer}")
    with pytest.raises(DataError, match="token scored, as the released places begin behind them"):
        encode_choices(model, labels, RELEASED, [("Which?", "A"), ("Which?", "B")])


def test_released_program_counts_from_the_questions_tokens(model):
    for choice, (question, answer) in zip(
        encode_choices(model, PROMPT, RELEASED, PAIRS), PAIRS, strict=True
    ):
        n_before = len(model.encode([f"{PROMPT.prefix}Q: {question}"])[0])
        assert (choice.first_state, choice.scored_start) == (n_before + 4, n_before + 3)
        assert (
            list(choice.tokens) == model.encode([f"{PROMPT.prefix}Q: {question}\nA: {answer}"])[0]
        )


def test_start_and_span_are_set_apart(model):
    released, offsets = (
        encode_choices(model, PROMPT, settings, PAIRS) for settings in (RELEASED, ScoringSettings())
    )
    mixed = encode_choices(model, PROMPT, ScoringSettings(start="released", span="offsets"), PAIRS)
    assert [choice.first_state for choice in mixed] == [choice.first_state for choice in released]
    assert [choice.scored_start for choice in mixed] == [choice.scored_start for choice in offsets]


def test_an_answer_without_tokens_is_refused(model):
    with pytest.raises(DataError, match=r"answer '' of 'Why\?': no token of its own; remove it"):
        encode_choices(model, PROMPT, ScoringSettings(), [("Why?", "")])


@pytest.mark.parametrize("scoring", [ScoringSettings(), RELEASED], ids=["default", "reference"])
@pytest.mark.parametrize("when", ["token", "prompt", "always", "never"])
def test_scores_are_those_of_the_plain_loop(model, scoring, when):
    choices = encode_choices(model, PROMPT, scoring, PAIRS)
    for s in (1, 4, 30):
        bundle = some_bundle(model, when=when, s=s, beta=0.45)
        scores = score(model, choices, bundle, batch=2)
        for i, choice in enumerate(choices):
            found, fired, first = reference_loop.choose(
                model, list(choice.tokens), choice.first_state, choice.scored_start, bundle
            )
            assert scores.logprob[i] == pytest.approx(found, abs=1e-9)
            assert scores.fired[i] == fired
            assert not fired or scores.kept[i] + choice.first_state == first


@pytest.mark.parametrize("when", ["token", "prompt", "always"])
def test_edits_from_the_first_answer_token_on_leave_what_predicts_it(model, when):
    question, answer = PAIRS[3]
    tokens, before = model.encode(
        [f"{PROMPT.prefix}Q: {question}\nA:{end}" for end in (f" {answer}", "")]
    )
    bundle = some_bundle(model, when=when, s=1, beta=0.0)
    found = {}
    for start in ("first", "answer"):
        (choice,) = encode_choices(
            model, PROMPT, ScoringSettings(start=start), [(question, answer)]
        )
        found[start] = score(model, [choice], bundle).logprob[0]
        short = replace(
            choice, tokens=choice.tokens[: choice.scored_start + 1]
        )  # the first token of the answer alone
        plain, steered = score_sweep(model, [short], [bundle.with_policy(when="never"), bundle])
        assert (plain.logprob[0] == steered.logprob[0]) == (start == "first")
    expected = [
        reference_loop.choose(model, tokens, len(before) - back, len(before), bundle)[0]
        for back in (0, 1)
    ]
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)
    assert expected[0] != pytest.approx(expected[1], abs=1e-6)


def test_unsteered_scores_are_sums_of_log_probabilities(model):
    choices = encode_choices(model, PROMPT, ScoringSettings(), PAIRS)
    scores = score(model, choices, some_bundle(model, when="never"))
    for choice, found in zip(choices, scores.logprob, strict=True):
        logits, _ = reference_model.run(model, list(choice.tokens))
        logprob = logits.log_softmax(-1)
        expected = sum(
            logprob[t - 1, choice.tokens[t]].item()
            for t in range(choice.scored_start, len(choice.tokens))
        )
        assert found == pytest.approx(expected, abs=1e-9)


def test_zero_strength_and_beta_1_change_no_score(model):
    choices = encode_choices(model, PROMPT, ScoringSettings(), PAIRS)
    bundles = [
        some_bundle(model, when="never"),
        some_bundle(model, alpha=0.0, beta=0.0),
        some_bundle(model, beta=1.0),
    ]
    never, zero, high = score_sweep(model, choices, bundles)
    assert zero.fired.all()
    assert not high.fired.any()
    assert zero.logprob == pytest.approx(never.logprob, abs=1e-12)
    assert high.logprob.tolist() == never.logprob.tolist()


def test_batch_size_and_order_change_no_score(model):
    choices = encode_choices(model, PROMPT, ScoringSettings(), PAIRS * 3)
    bundle = some_bundle(model)
    expected = score(model, choices, bundle).logprob
    assert expected.reshape(3, -1).tolist() == pytest.approx(
        np.tile(expected[: len(PAIRS)], (3, 1)), abs=1e-12
    )
    order = np.random.default_rng(0).permutation(len(choices))
    for size in (1, 4):
        assert score(model, choices, bundle, size).logprob == pytest.approx(expected, abs=1e-12)
        shuffled = score(model, [choices[i] for i in order], bundle, size).logprob
        assert shuffled == pytest.approx(expected[order], abs=1e-12)


def test_a_choice_without_editable_position_is_never_steered(model):
    choice = Choice((0, 5, 6, 7, 8), 5, 4)
    for when in ("token", "prompt", "always"):
        bundle = some_bundle(model, when=when, beta=0.0)
        scores = score(model, [choice, Choice((0, 5, 6, 7, 8, 9, 10), 5, 4)], bundle)
        assert scores.fired.tolist() == [False, True]


def test_no_choices_give_no_scores(model):
    assert score(model, [], some_bundle(model)).logprob.tolist() == []
    assert score_sweep(model, [], []) == []


def test_incomplete_bundles_are_refused(model):
    with pytest.raises(BundleError, match="there is no tracker"):
        score(model, [Choice((0, 5, 6), 1, 2)], replace(some_bundle(model), tracker=None))


def test_half_precision_scores_are_summed_in_float32():
    model = tiny_model(dtype="bfloat16")
    choices = encode_choices(model, PROMPT, ScoringSettings(), PAIRS)
    logprob = score(model, choices, some_bundle(model)).logprob
    assert logprob.dtype == np.float64
    assert np.isfinite(logprob).all()


@pytest.mark.skipif(DEVICE != "cpu", reason="of the host's memory")
def test_a_host_holds_the_logits_of_few_tokens_at_once(monkeypatch):
    model = tiny_model()
    bundle = some_bundle(model, alpha=6.0)
    choices = encode_choices(model, PROMPT, ScoringSettings(), PAIRS)
    expected = score(model, choices, bundle)
    assert expected.fired.any()
    most = max(choice.n_states for choice in choices)
    monkeypatch.setattr("fasb.decoding.score.LOGITS", 2 * most * model.vocab_size)
    sizes = []

    for run in (score_batch, score_again):

        def counted(model, texts, *rest, run=run):
            sizes.append(len(texts) * max(text.n_states for text in texts))
            return run(model, texts, *rest)

        monkeypatch.setattr(f"fasb.decoding.score.{run.__name__}", counted)
    found = score(model, choices, bundle)
    assert max(sizes) <= 2 * most
    assert found.fired.tolist() == expected.fired.tolist()
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-6)
