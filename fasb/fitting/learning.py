"""Learning: what methods share that are fitted by running the model, perhaps with gradients.

In: a fold's training questions and its model. Out: their texts as tokens, logits under an edit
whose tensors may want gradients, gradient descent. Knows no method; test questions never come here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fasb.data.prompts import answer_tokens, choice_text
from fasb.data.protocol import Question, with_ids
from fasb.errors import DataError
from fasb.fitting.training import Training
from fasb.model.batch import Batch, batch_of, forward, in_batches
from fasb.model.chat import encode_prompts, render_of
from fasb.model.hooks import editing, recording
from fasb.model.load import LoadedModel
from fasb.settings import SiteName
from fasb.steering.edit import Edit
from fasb.steering.fields import tensors_of

BATCH = 64
"""Texts in one pass without gradients."""
POINTS = 10
"""Points of an integral in one pass with them."""


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A question with one of its answers, as tokens; `start` is the first that is the answer's."""

    tokens: tuple[int, ...]
    start: int
    true: bool
    question: str


def training_prompts(training: Training, model: LoadedModel) -> list[list[int]]:
    """Return what the model is given to answer each training question."""
    prompt, questions = training.sections.prompt, training_questions(training)
    return encode_prompts(model, prompt, [question.text for question in questions])


def training_questions(training: Training) -> list[Question]:
    """Return the questions that are fitted on.

    Raises:
        DataError: there is none.
    """
    questions = with_ids(training.questions, training.split.train)
    if not questions:
        raise DataError("fit: no training questions; give the split more questions")
    return questions


def answer_texts(training: Training, model: LoadedModel) -> list[AnswerText]:
    """Return all reference answers of the training questions behind their questions.

    Spans are by offsets (M3).
    """
    prompt, found = training.sections.prompt, []
    render = render_of(model, prompt)
    for question in training_questions(training):
        for i, answer in enumerate(question.references):
            choice = choice_text(prompt, question.text, answer, render)
            tokens, offsets = model.encode_with_offsets(
                choice.text[: choice.end], special=render is None
            )
            inside = answer_tokens(choice, offsets, rendered=render is not None)
            # an answer without a token of its own: the last token stands for it
            start = inside[0] if inside else len(tokens) - 1
            found.append(AnswerText(tuple(tokens), start, i < len(question.true), question.id))
    return found


def answer_pairs(training: Training, model: LoadedModel) -> list[tuple[AnswerText, AnswerText]]:
    """Return the first true and the first false answer of each training question that has both."""
    first: dict[bool, dict[str, AnswerText]] = {True: {}, False: {}}
    for text in answer_texts(training, model):
        first[text.true].setdefault(text.question, text)
    # questions stay in order, as each has a true answer
    both = [question for question in first[True] if question in first[False]]
    return [(first[True][question], first[False][question]) for question in both]


def answer_log_probability(
    model: LoadedModel, texts: Sequence[AnswerText], edit: Edit | None = None
) -> Float[Tensor, " text"]:
    """Return the summed log-probability of each answer under an edit at strength 1 (M9).

    The edit is active from the token before the answer on. Gradients reach the edit's tensors.
    """
    batch = batch_of(model, [text.tokens for text in texts])
    edited = from_answer(texts, batch)
    with editing(model.layout, edit) as dial:
        dial.strength = edited
        logits = forward(model, batch)
    # logits at a token are of the next one, so those of edited tokens are of the answer's
    logprob = logits[:, :-1].float().log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
    return (logprob * (edited[:, :-1] > 0)).sum(-1)


def from_answer(texts: Sequence[AnswerText], batch: Batch) -> Float[Tensor, "row column"]:
    """Return strength 1 from the token before each answer on, else 0."""
    strength = torch.zeros(batch.ids.shape, dtype=torch.float64, device=batch.ids.device)
    for row, text in enumerate(texts):
        n_answer = len(text.tokens) - text.start
        strength[row, -n_answer - 1 :] = 1.0
    return strength


def attribution(model: LoadedModel, text: AnswerText, steps: int = 50) -> Float[Tensor, " token"]:
    """Return what each token before the answer adds to its log-probability, in nats.

    Integrated gradients from a prompt of padding on, by the midpoint rule: they sum to what the
    whole prompt adds (Sundararajan et al., arXiv 1703.01365).
    """
    # not from zero: a norm behind the embeddings makes nearly all of that way without effect
    with torch.no_grad():
        nothing = model.model.get_input_embeddings()(torch.tensor([model.pad], device=model.device))
    shares = (torch.arange(steps) + 0.5) / steps
    passes = [_added(model, text, nothing, some) for some in shares.split(POINTS)]
    return torch.stack(passes).sum(0) / steps


def _added(
    model: LoadedModel, text: AnswerText, nothing: Float[Tensor, "1 width"], shares: Tensor
) -> Float[Tensor, " token"]:
    """Return the sum over some points between `nothing` and the prompt, in one pass."""
    seen = []

    def blend(_module: object, _inputs: object, embedded: Tensor) -> Tensor:
        way, blended = embedded - nothing, embedded.clone()
        blended[:, : text.start] -= (1 - shares.to(way))[:, None, None] * way[:, : text.start]
        seen.extend([way, blended.requires_grad_()])
        return blended

    # the hook leaves with the block
    with model.model.get_input_embeddings().register_forward_hook(blend):
        total = answer_log_probability(model, [text] * len(shares)).sum()
    way, blended = seen
    (gradient,) = torch.autograd.grad(total, blended)
    return (gradient * way).sum((0, -1))[: text.start].float().cpu()


def last_states(
    model: LoadedModel,
    prompts: Sequence[Sequence[int]],
    site: SiteName,
    edit: Edit | None = None,
    strength: float = 0.0,
) -> tuple[Float[Tensor, "prompt layer unit width"], Float[Tensor, "prompt vocab"]]:
    """Return a site's activations at each text's last token, and the logits of what follows.

    An edit is active at the last token alone.
    """
    states: list[Tensor] = [torch.empty(0)] * len(prompts)
    logits: list[Tensor] = [torch.empty(0)] * len(prompts)

    def run(rows: list[int]) -> None:
        batch = batch_of(model, [prompts[i] for i in rows])
        recorder.positions = torch.full((len(rows),), batch.width - 1, device=model.device)
        dial.strength = torch.zeros(batch.ids.shape, dtype=torch.float64, device=model.device)
        dial.strength[:, -1] = strength
        out = forward(model, batch, keep=1)[:, 0].float().cpu()
        for i, x, y in zip(rows, recorder.pop().float().cpu(), out, strict=True):
            states[i], logits[i] = x, y

    hooks = recording(model.layout, site), editing(model.layout, edit)
    with torch.no_grad(), hooks[0] as recorder, hooks[1] as dial:
        in_batches([len(prompt) for prompt in prompts], BATCH, run)
    return torch.stack(states), torch.stack(logits)


def prompt_ends(
    training: Training, model: LoadedModel
) -> tuple[Float[Tensor, "prompt layer 1 width"], Float[Tensor, "prompt vocab"]]:
    """Return the residual stream at the training prompts' ends, and the logits of what follows.

    Prompts are run once per fold, whoever asks.
    """

    def make() -> tuple[Tensor, Tensor]:
        return last_states(model, training_prompts(training, model), "residual")

    return training.once("prompts' ends", make)


def learned(edit: Edit) -> Edit:
    """Return the edit as values alone, without gradients and on the CPU."""
    changes = []
    for change in edit.changes:
        values = {name: x.detach().cpu() for name, x in tensors_of(change.operation).items()}
        operation: Any = change.operation
        changes.append(replace(change, operation=replace(operation, **values)))
    return replace(edit, changes=tuple(changes))


def descend(
    parameters: Sequence[Tensor],
    loss: Callable[[list[int]], Tensor],
    n: int,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Take steps of Adam on the loss of 16 of n rows each, drawn with the seed."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(list(parameters), lr=rate)
    for _ in range(steps):
        rows = torch.randperm(n, generator=generator)[:16].tolist()
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(rows).backward()
        optimizer.step()
