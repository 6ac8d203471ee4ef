"""StoryCloze: the ending that fits four sentences, of two (docs/method.md 4).

In: XStoryCloze in English, in the files of its release or the hub's copy. Out: questions labelled A
and B, its 360 training stories to fit on and its 1,511 evaluation stories to test on.
"""

from typing import Any

from fasb.data import sources
from fasb.data.prompts import fill
from fasb.data.protocol import Question, Size

FILES = {
    "fit": ("spring2016.val.en.tsv.split_20_80_train.tsv", *sources.parquet("en", "train")),
    "test": ("spring2016.val.en.tsv.split_20_80_eval.tsv", *sources.parquet("en", "eval")),
}

SIZE = Size(fit=360, test=1511, answers=3742, answer=1)

PROMPT = sources.CHOICE_PROMPT


class Settings(sources.ChoiceSource):
    """Where StoryCloze is."""

    hub: str = "juletxara/xstory_cloze"


def load(settings: Settings) -> list[Question]:
    """Return the questions: stories to fit on, then stories to test on; one story is one group.

    Raises:
        DataError: a file is missing or malformed.
    """
    return sources.fit_and_test(settings, "story_cloze", FILES, _question)


def _question(number: int, row: dict[str, Any], role: str, wording: str) -> Question:
    sentences = (
        sources.field(row, f"input_sentence_{n}", f"InputSentence{n}").strip() for n in (1, 2, 3, 4)
    )
    story = " ".join(sentences)
    endings = [
        sources.field(row, f"sentence_quiz{n}", f"RandomFifthSentenceQuiz{n}").strip()
        for n in (1, 2)
    ]
    # the set counts endings from 1
    right = sources.label(row, 2, "answer_right_ending", "AnswerRightEnding", least=1)
    text = fill("wording", wording, story=story, first=endings[0], second=endings[1])
    name = f"{role}-{sources.field(row, 'story_id', 'InputStoryid')}"
    return sources.choice(name, text, sources.LETTERS[:2], right, (story.casefold(), role))
