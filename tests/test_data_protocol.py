"""Questions on disk: what is read is what was written, and nothing else is taken for questions."""

from dataclasses import asdict, replace

import pandas as pd
import pytest
from tiny import tiny_questions

from fasb.artifacts import write_parquet
from fasb.data.protocol import Question, plain_text, read_questions, write_questions
from fasb.errors import ArtifactError, DataError
from tests.unchecked import unchecked

QUESTIONS = tiny_questions(4)


def frame():
    return pd.DataFrame(
        [
            {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(q).items()}
            for q in QUESTIONS
        ]
    )


def test_questions_come_back_as_they_were(tmp_path):
    write_questions(tmp_path / "q.parquet", QUESTIONS, {})
    assert read_questions(tmp_path / "q.parquet") == QUESTIONS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(more=1), "not questions, whose columns are id, text"),
        (lambda f: f.drop(columns="best"), "not questions, whose columns are id, text"),
        (lambda f: f.assign(text=1), "row 1 is no question"),
        (lambda f: f.assign(true="Yes"), "row 1 is no question|best answer"),
        (lambda f: f.assign(group=None), "row 1 is no question"),
        (lambda f: f.assign(id="same"), "'same' appears twice"),
        (lambda f: f.iloc[:0], "no questions"),
    ],
)
def test_another_table_is_refused(tmp_path, change, message):
    write_parquet(tmp_path / "q.parquet", change(frame()), {})
    with pytest.raises((ArtifactError, DataError), match=message):
        read_questions(tmp_path / "q.parquet")


@pytest.mark.parametrize(
    "other",
    [
        "what is it?",
        "What  is it ?",
        "WHAT IS\tIT?",
        " What is it? ",
        "\ufeffWhat is\u200b i\u00adt?",
    ],
)
def test_the_same_text_however_it_is_written(other):
    assert plain_text(other) == plain_text("What is it?")
    assert replace(QUESTIONS[0], text=other).keys == replace(QUESTIONS[0], text="What is it?").keys


def test_other_texts_stay_apart():
    texts = ["What is it?", "What is it", "What is it!", "What isit?", "What's it?"]
    assert len(set(map(plain_text, texts))) == len(texts)
    assert plain_text("What\u2019s \u201cit\u201d?") == plain_text('What\'s "it"?')
    assert plain_text("What\u2032s \u00abit\u00bb \u2013 e\u0301?") == plain_text(
        'What\'s "it" - \xe9?'
    )


def test_questions_made_by_hand_are_of_texts_and_contradict_nothing():
    # in a process of its own, as the tests' type checker would refuse the first three
    said = unchecked(
        "from fasb.data.protocol import Question\n"
        "from fasb.user.evaluation import questions_of\n"
        "from fasb.errors import DataError\n"
        "one = dict(id='1', text='a', true=('Yes',), false=('No',), best='Yes', group='1')\n"
        "wrong = [{'true': 'Yes'}, {'false': (1, 2)}, {'true': {'Yes'}}, {'false': iter(['No'])}]\n"
        "wrong += [{key: 1} for key in ('id', 'text', 'best', 'group', 'role')]\n"
        "wrong += [{'id': 'a\\udc80'}, {'text': 'a\\0'}, {'false': ('Yes', 'No')}]\n"
        "for given in [[5], *([Question(**{**one, **changes})] for changes in wrong)]:\n"
        "    try:\n"
        "        print('taken', questions_of(given))\n"
        "    except DataError as error:\n"
        "        print(error)\n"
    )
    other, *texts, half, nul, both = said.splitlines()
    assert "5 is no question; give fasb.Question" in other
    assert len(texts) == 9
    assert all("give texts in a tuple or list" in line for line in texts[:4])
    assert all("is 1; give a text" in line for line in texts[4:])
    assert "holds half a character (\\udc80)" in half
    assert "holds a NUL character" in nul
    assert "'Yes' is a true and a false answer of '1'" in both


def one_question(**changed):
    given = {"id": "1", "text": "Who?", "true": ("Yes",), "false": ("No",), "best": "Yes"}
    return Question(**{**given, "group": "1", **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"false": ("Yes.",)}, "'Yes.' is a true and a false answer of '2'"),
        ({"true": ("no!",), "best": "no!"}, "'no!' is a true and a false answer of '2', or of an"),
        (
            {"text": "How?", "paraphrases": (" who ?",), "false": ("yes",)},
            "'yes' is a true and a false answer of '2', or of another question of the same text",
        ),
        ({"false": ("No", " \u200b")}, "'2' has an answer or paraphrase without text; remove it"),
        ({"paraphrases": ("",)}, "'2' has an answer or paraphrase without text; remove it"),
    ],
)
def test_a_list_of_questions_is_checked_as_a_table_is(changed, message):
    from fasb.user.evaluation import questions_of

    with pytest.raises(DataError) as refused:
        questions_of([one_question(), one_question(id="2", **changed)])
    assert message in str(refused.value)
    # the same question with other answers of the same label is none
    assert len(questions_of([one_question(), one_question(id="2", false=("Never",))])) == 2
