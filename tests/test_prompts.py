import pytest

from fasb.data.prompts import choice_text, clean_answer, generation_prompt
from fasb.errors import ConfigError
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
    ("text", "answer"),
    [
        pytest.param("\nA: Yes.", "Yes.", id="after the mark"),
        pytest.param("\nA: Yes.\n\nQ: And?\nA: No.", "Yes.", id="before the next question"),
        pytest.param("\nA: Yes. A: No.", "Yes.", id="before the next mark"),
        pytest.param("  Yes. \n", "Yes.", id="no mark"),
        pytest.param("\nQ: What?", "", id="a question alone"),
        pytest.param("\nA:", "", id="empty"),
        pytest.param("", "", id="nothing"),
        pytest.param("Hm. A: Yes.", "Yes.", id="what stands before the mark goes"),
    ],
)
def test_paper_cleans(text, answer):
    assert clean_answer(text, PAPER) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Yes.", "Yes."),
        (" Yes.\n\nMore", "Yes."),
        (" Yes.\nQ: And?\nA: No.", "Yes."),
        (" Yes. A: No.", "Yes."),
        ("", ""),
    ],
)
def test_an_answer_whose_mark_is_in_the_prompt_begins_at_once(text, answer):
    assert clean_answer(text, PromptSettings()) == answer


def test_unknown_places_in_a_template_are_refused():
    with pytest.raises(
        ConfigError, match=r"prompt\.question: .*\{questoin\}.*places: \{question\}"
    ):
        generation_prompt(PromptSettings(question="Q: {questoin}"), "Why?")
    with pytest.raises(ConfigError, match=r"prompt\.answer: .*put \{answer\} into it"):
        choice_text(PromptSettings(answer="\nA: {reply}"), "Why?", "So.")
