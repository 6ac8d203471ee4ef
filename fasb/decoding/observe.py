"""Observing: what a model makes of tokens that are already there, in one teacher-forced pass.

In: texts as token ids, and what to look at in their last tokens. Out: p, log-probabilities, the KV
cache of the pass. Knows no policy and writes no token.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasb.errors import ModelError
from fasb.model.batch import Batch, Prefix, batch_of, forward, prefix_of
from fasb.model.hooks import ActivationRecorder, editing, recording
from fasb.model.layout import Layout
from fasb.model.load import LoadedModel
from fasb.model.midway import Entrance
from fasb.settings import SiteName
from fasb.steering.edit import Edit
from fasb.steering.fields import width_of
from fasb.steering.tracker import Tracker

LOGITS_AT_ONCE = 2**24
"""Logits of which a normalised copy is made at once, so that memory holds them once."""


@dataclass(frozen=True, slots=True)
class TeacherForcedText:
    """A text of which the last `n_states` tokens are looked at.

    strength: of an edit, at its last tokens. begins: which of the prefix's texts it begins with,
    and how many tokens of that are its own; unset where the prefix has one text for all.
    """

    text: Sequence[int]
    n_states: int
    strength: Sequence[float] | Float[np.ndarray, " _"] = ()
    begins: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """The last states of a batch; those of a shorter text stand at the right.

    p: of every state, for each tracker. logprob: of every token but the first of them, given all
    before it, in float32 or better. known: what was run, for texts that begin so. residual: what
    layers gave at all that was run but the last token.
    """

    p: list[Float[np.ndarray, "row state"]]
    logprob: Float[np.ndarray, "row token"]
    known: Prefix
    residual: dict[int, Float[Tensor, "row column hidden"]]


@dataclass(frozen=True, slots=True)
class TrackerGroup:
    """Several trackers, whose units are recorded once each.

    at: the units of each site. places: where each tracker's units stand among those of its site.
    """

    at: dict[SiteName, Int[Tensor, "n 2"]]
    places: tuple[Int[Tensor, " _"], ...]
    trackers: tuple[Tracker, ...]

    @classmethod
    def of(cls, trackers: Sequence[Tracker], device: torch.device | str) -> "TrackerGroup":
        """Return the group of these trackers, on a device."""
        units: dict[SiteName, dict[tuple[int, int], int]] = {}
        places = []
        for tracker in trackers:
            known = units.setdefault(tracker.site, {})
            pairs = [(layer, unit) for layer, unit in tracker.at.tolist()]
            # a unit's number among those of its site, in the order in which trackers name them
            found = [known.setdefault(pair, len(known)) for pair in pairs]
            places.append(torch.tensor(found, device=device))
        at = {site: torch.tensor(list(known)).reshape(-1, 2) for site, known in units.items()}
        return cls(at, tuple(places), tuple(tracker.to(device) for tracker in trackers))

    @contextmanager
    def recording(self, layout: Layout) -> Iterator[dict[SiteName, ActivationRecorder]]:
        """Record all units of every forward pass in the block.

        Raises:
            ModelError: a tracker has a unit or a width that the model does not have.
        """
        for tracker in self.trackers:
            check_width(layout, tracker)
        with ExitStack() as stack:
            recorders = {}
            for site, at in self.at.items():
                recorders[site] = stack.enter_context(recording(layout, site, at))
            yield recorders

    def deviation(
        self, recorders: dict[SiteName, ActivationRecorder], n_last: int, device: torch.device
    ) -> list[Float[np.ndarray, "row state"]]:
        """Return each tracker's p of the newest pass's last states."""
        states = {site: one.pop()[:, -n_last:].to(device) for site, one in recorders.items()}
        found = []
        for tracker, place in zip(self.trackers, self.places, strict=True):
            found.append(tracker.deviation(states[tracker.site][:, :, place]).cpu().numpy())
        return found


@torch.inference_mode()
def observe_batch(
    model: LoadedModel,
    texts: Sequence[TeacherForcedText],
    prefix: Prefix | None,
    trackers: TrackerGroup,
) -> list[Float[np.ndarray, "row state"]]:
    """Return p of the last states of unsteered texts, for each tracker.

    Raises:
        ModelError: an activation is not finite.
    """
    n_last = max(1, *(text.n_states for text in texts))
    batch = _batch_of(model, texts, prefix)
    with trackers.recording(model.layout) as recorders:
        forward(model, batch, keep=1)
        p = trackers.deviation(recorders, n_last, model.device)
    for seen in p:
        _check_finite(model, seen, [text.n_states for text in texts], "a tracked activation")
    return p


@torch.inference_mode()
def score_batch(
    model: LoadedModel,
    texts: Sequence[TeacherForcedText],
    prefix: Prefix | None,
    trackers: TrackerGroup,
    layers: Sequence[int] = (),
) -> Observation:
    """Return p of the last states and log-probabilities of the tokens behind the first of them.

    layers: whose outputs are kept, for `score_again` to begin behind.

    Raises:
        ModelError: an activation or a logit is not finite.
    """
    n_states = [text.n_states for text in texts]
    n_scored = max(1, *n_states) - 1
    # logits at a token are of the next one: the last token is run only where its state is read
    tracked = bool(trackers.trackers)
    run = texts if tracked else [_without_last(text) for text in texts]
    batch = _batch_of(model, run, prefix)
    kept = torch.tensor([[layer, 0] for layer in layers], dtype=torch.long).reshape(-1, 2)
    with (
        trackers.recording(model.layout) as recorders,
        recording(model.layout, "residual", kept) as recorder,
    ):
        logits = forward(model, batch, keep=max(1, n_scored + tracked))[:, :n_scored]
        p = trackers.deviation(recorders, n_scored + 1, model.device)
        states = recorder.pop()[:, : batch.width - tracked] if layers else None
    for seen in p:
        _check_finite(model, seen, n_states, "a tracked activation")
    logprob = _log_probabilities(model, logits, texts)
    known = prefix_of([text.text for text in run], batch)
    residual = {} if states is None else dict(zip(layers, states.unbind(2), strict=True))
    return Observation(p, logprob, known, residual)


@torch.inference_mode()
def score_again(
    model: LoadedModel,
    texts: Sequence[TeacherForcedText],
    before: Observation,
    edit: Edit,
    entrance: Entrance | None,
) -> Float[np.ndarray, "row token"]:
    """Return log-probabilities under an edit, as `score_batch` does, of texts that it has run.

    Each begins, up to where it is edited, with one of those; behind the entrance's layer, if there
    is one. At least two states of each are looked at.

    Raises:
        ModelError: a logit is not finite.
    """
    run = [_without_last(text) for text in texts]
    batch = _batch_of(model, run, before.known)
    n_scored = max(text.n_states for text in texts) - 1
    with ExitStack() as stack:
        dial = stack.enter_context(editing(model.layout, edit))
        dial.strength = right_aligned([text.strength for text in run], batch.width, model.device)
        if entrance is not None:
            states = before.residual[entrance.layer]
            of_texts = [text.begins[0] for text in texts if text.begins is not None]
            states = states[of_texts, states.shape[1] - batch.width :]
            stack.enter_context(entrance.entered(model.layout, states))
        logits = forward(model, batch, keep=n_scored)
    return _log_probabilities(model, logits, texts)


@torch.inference_mode()
def logits_of(
    model: LoadedModel, text: Sequence[int], edit: Edit | None = None, strength: float = 0.0
) -> Float[Tensor, "token vocab"]:
    """Return logits at every token of one text; an edit is active at all of them."""
    batch = batch_of(model, [text])
    with editing(model.layout, edit) as dial:
        shape = batch.ids.shape
        dial.strength = torch.full(shape, strength, dtype=torch.float64, device=model.device)
        return forward(model, batch)[0]


def check_width(layout: Layout, tracker: Tracker) -> None:
    """Refuse a tracker of other activations than the model has.

    Raises:
        ModelError: its classifiers are of another width.
    """
    width, own = layout.site(tracker.site).width, width_of(tracker.score)
    if own != width:
        raise ModelError(
            f"tracker: classifiers of {own} values, but this model's {tracker.site} "
            f"activations have {width}; use a tracker that was fitted on this model"
        )


def right_aligned(
    strengths: Sequence[Sequence[float] | Float[np.ndarray, " _"]],
    width: int,
    device: torch.device | str,
) -> Float[Tensor, "row column"] | None:
    """Return strengths of each row's last tokens for `EditStrength`; None where all are 0."""
    padded = np.zeros((len(strengths), width))
    for row, last in zip(padded, strengths, strict=True):
        if len(last):
            last = last[-width:]
            row[-len(last) :] = last
    return torch.from_numpy(padded).to(device) if padded.any() else None


def not_finite(model: LoadedModel, what: str) -> ModelError:
    """Return what is raised where an activation or a logit is NaN or has overflowed."""
    return ModelError(
        f"{model.settings.path}: {what} is not finite in {model.model.dtype}; set the model's "
        "dtype to bfloat16 or float32, or lower the strength"
    )


def _check_finite(
    model: LoadedModel, x: Float[np.ndarray, "row last"], n_own: Sequence[int], what: str
) -> None:
    """Refuse what is not finite among each row's own last values; padding may be anything."""
    # columns counted from the right, where each row's own are
    own = np.arange(x.shape[1], 0, -1) <= np.array(n_own)[:, None]
    if not np.isfinite(x[own]).all():
        raise not_finite(model, what)


def _batch_of(
    model: LoadedModel, texts: Sequence[TeacherForcedText], prefix: Prefix | None
) -> Batch:
    begins = [text.begins for text in texts if text.begins is not None]
    return batch_of(model, [text.text for text in texts], prefix, begins or None)


def _without_last(text: TeacherForcedText) -> TeacherForcedText:
    """Return the text without its last token, if more than that is looked at."""
    if text.n_states <= 1:
        return text
    tokens, strength = text.text[:-1], text.strength[:-1]
    return TeacherForcedText(tokens, text.n_states - 1, strength, text.begins)


def _last_ids(
    model: LoadedModel, texts: Sequence[TeacherForcedText], n_last: int
) -> Int[Tensor, "row last"]:
    """Return the last tokens of each text, padded at the left."""
    rows = [list(text.text[max(0, len(text.text) - n_last) :]) for text in texts]
    padded = [[model.pad] * (n_last - len(row)) + row for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=model.device)


def _log_probabilities(
    model: LoadedModel,
    logits: Float[Tensor, "row token vocab"],
    texts: Sequence[TeacherForcedText],
) -> Float[np.ndarray, "row token"]:
    """Return log-probabilities of the texts' last tokens, in float32 or better; some at a time.

    Raises:
        ModelError: one of a text's own is not finite.
    """
    ids = _last_ids(model, texts, logits.shape[1])
    dtype = torch.promote_types(logits.dtype, torch.float32)
    n_rows = max(1, LOGITS_AT_ONCE // max(1, logits.shape[1] * logits.shape[2]))
    found = []
    for part, tokens in zip(logits.split(n_rows), ids.split(n_rows), strict=True):
        found.append(part.to(dtype).log_softmax(-1).gather(-1, tokens[..., None])[..., 0])
    logprob = torch.cat(found).cpu().numpy()
    _check_finite(model, logprob, [text.n_states - 1 for text in texts], "a logit")
    return logprob
