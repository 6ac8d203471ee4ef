import pytest

from fasb.data.prompts import answer_tokens, choice_text, clean_answer, fill, generation_prompt
from fasb.errors import ConfigError
from fasb.extensions import validated
from fasb.settings import PromptSettings

PAPER = PromptSettings(prefix="Primer.\n\n", open="", stop=())


def test_prompt_is_prefix_question_and_opening():
    prompt = PromptSettings(prefix="Primer {kept as it is}.\n\n")
    assert generation_prompt(prompt, "Why {so}?") == "Primer {kept as it is}.\n\nQ: Why {so}?\nA:"
    assert generation_prompt(PAPER, "Why?") == "Primer.\n\nQ: Why?"


def test_choice_text_marks_the_answer():
    prompt = PAPER.model_copy(update={"answer": "\nA: {answer}\n\n"})
    choice = choice_text(prompt, "Why?", "No reason.")
    assert choice.text == "Primer.\n\nQ: Why?\nA: No reason.\n\n"
    assert choice.text[choice.start : choice.end] == "No reason."
    assert choice.before == "Primer.\n\nQ: Why?"


@pytest.mark.parametrize(
    ("pieces", "plain", "rendered"),
    [
        (["Q:", " Why?", "\n", "A:", " ", "1", "0", "."], [4, 5, 6, 7], [5, 6, 7]),
        (["Q:", " Why?", "\n", "A:", " 10", "."], [4, 5], [4, 5]),
        (["Q:", " Why?", "\nA: ", "10."], [3], [3]),
    ],
    ids=["a space of its own", "joined with the answer", "joined with what stands before"],
)
def test_the_answers_tokens_are_those_that_the_model_has_to_write(pieces, plain, rendered):
    choice = choice_text(PromptSettings(), "Why?", "10.")
    assert "".join(pieces) == choice.text
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    offsets = [(end - len(piece), end) for piece, end in zip(pieces, ends, strict=True)]
    assert answer_tokens(choice, offsets, rendered=False) == plain
    assert answer_tokens(choice, offsets, rendered=True) == rendered


RELEASED = PAPER.model_copy(update={"marks": "anywhere"})


@pytest.mark.parametrize(
    ("text", "line", "anywhere"),
    [
        pytest.param("\nA: Yes.", "Yes.", "Yes.", id="after the mark"),
        pytest.param("\nA: Yes.\n\nQ: And?\nA: No.", "Yes.", "Yes.", id="before the next question"),
        pytest.param("\nA: Yes.\nA: No.", "Yes.", "Yes.", id="before the next mark"),
        pytest.param("\nA: Yes. A: No.", "Yes. A: No.", "Yes.", id="a mark within a line"),
        pytest.param("  Yes. \n", "Yes.", "Yes.", id="no mark"),
        pytest.param("\nQ: What?", "", "", id="a question alone"),
        pytest.param("\nA:", "", "", id="empty"),
        pytest.param("", "", "", id="nothing"),
        pytest.param("Hm.\nA: Yes.", "Yes.", "Yes.", id="what stands before the mark goes"),
        pytest.param("\nA: DNA: an acid.", "DNA: an acid.", "DN", id="a mark within a word"),
        pytest.param("See the FAQ: no.", "See the FAQ: no.", "See the FA", id="a question's mark"),
    ],
)
def test_the_answer_follows_its_mark(text, line, anywhere):
    assert clean_answer(text, PAPER) == line
    assert clean_answer(text, RELEASED) == anywhere


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Yes.", "Yes."),
        (" Yes.\n\nMore", "Yes."),
        (" Yes.\nQ: And?\nA: No.", "Yes."),
        (" Yes.\nA: No.", "Yes."),
        (" A: Paris.", "Paris."),
        ("\nA: Paris.\nA: Rome.", "Paris."),
        (" DNA: deoxyribonucleic acid", "DNA: deoxyribonucleic acid"),
        (" The USA: it has", "The USA: it has"),
        (" Vitamin A: an organic compound", "Vitamin A: an organic compound"),
        (" See Q: and A: sections.", "See Q: and A: sections."),
        ("Q: What?", ""),
        ("", ""),
    ],
)
def test_an_answer_whose_mark_is_in_the_prompt_begins_at_once(text, answer):
    assert clean_answer(text, PromptSettings()) == answer


@pytest.mark.parametrize(
    ("field", "template", "message"),
    [
        ("question", "Q: {questoin}", r"a place {questoin}, .*; places: {question}"),
        ("question", "Q:", "no place {question}"),
        ("answer", "A: {reply}", "a place {reply}"),
        ("answer", "{question} {answer}", "a place {question}"),
        ("probe", "{question}", "no place {answer}"),
        ("next_question", "{question}", "a place {question}"),
        ("question", "{question.foo}", "{question.foo} is not a plain place"),
        ("question", "{question[x]}", "not a plain place"),
        ("question", "{question!r}", "not a plain place"),
        ("question", "{question:>1000000000}", "not a plain place"),
        ("question", "{question:{question}}", "not a plain place"),
        ("question", "{}{question}", "not a plain place"),
        ("question", "{0}{question}", "not a plain place"),
        ("question", "{question} {", "expected '}'|single '{'"),
    ],
)
def test_only_plain_places_are_taken(field, template, message):
    with pytest.raises(ConfigError, match=rf"^prompt\.{field}: .*{message}") as caught:
        validated(PromptSettings, {field: template}, "prompt")
    assert "\n" not in str(caught.value)
    values = {"question": "Why?", "answer": "So.", "next": "How?"}
    if "plain" in message:
        with pytest.raises(ConfigError, match=r"^wording: .* cannot be filled in"):
            fill("wording", template, **values)


def test_braces_written_twice_are_braces():
    prompt = PromptSettings(question="{{Q}}: {question}")
    assert generation_prompt(prompt, "Why {so}?") == "{Q}: Why {so}?\nA:"
