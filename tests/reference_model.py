"""Passes through a model, one text at a time: the plain loop's, without batch or cache.

What is read and edited is given as a tracker and as an edit; this file learns both with a hook per
layer. The loop itself is in `tests/reference_loop.py`.
"""

import torch

from fasb.model.load import LoadedModel
from fasb.steering.edit import Edit
from fasb.steering.tracker import Tracker


def next_token(
    model: LoadedModel, text: list[int], edit: Edit | None = None, strength=0.0, at=range(0)
) -> int:
    """The likeliest next token."""
    return int(run(model, text, edit, strength, at)[0][-1].argmax())


def logprob(model: LoadedModel, text: list[int], scored: int, edit=None, strength=0.0, at=range(0)):
    """Sum of the log-probabilities of the tokens from `scored` on (M9)."""
    logprobs = run(model, text, edit, strength, at)[0].log_softmax(-1)
    return sum(float(logprobs[t - 1, text[t]]) for t in range(scored, len(text)))


def p_of(model: LoadedModel, text: list[int], tracker: Tracker) -> list[float]:
    """p at every token: the mean over anchors of 1 - p(true) (T1)."""
    return p_of_states(run(model, text, read=tracker)[1], tracker)


def p_of_states(seen: dict[int, torch.Tensor], tracker: Tracker) -> list[float]:
    """p at every token of what `run` has read for a tracker."""
    states = [seen[layer][:, unit] for layer, unit in tracker.at.tolist()]
    return tracker.deviation(torch.stack(states, 1)).tolist()


@torch.no_grad()
def run(
    model: LoadedModel,
    text: list[int],
    edit: Edit | None = None,
    strength=0.0,
    at=range(0),
    read: Tracker | None = None,
):
    """Logits [token, vocab], and of each layer what a tracker reads, unedited [token, unit, width].

    `strength` is one number, or one for each of the positions `at`.
    """
    seen, handles = {}, []
    if read is not None:
        for layer in range(model.layout.n_layers):
            see = lambda x, layer=layer: seen.update({layer: x.cpu().clone()})  # noqa: E731
            handles.append(hook(model, read.site, layer, see))
    strength = torch.as_tensor(strength, dtype=torch.float64).reshape(1, -1, 1, 1)
    for change in edit.changes if edit is not None else ():
        for i, (layer, unit) in enumerate(change.at.tolist()):

            def apply(x, operation=change.operation, i=i, unit=unit):
                part = x[None, list(at), unit : unit + 1]
                strengths = strength.to(part).expand(1, len(at), 1, 1)
                x[list(at), unit] += only(operation, i, part).delta(part, strengths)[0, :, 0]

            handles.append(hook(model, change.site, layer, apply))
    try:
        ids = torch.tensor([text], device=model.device)
        logits = model.model(ids, use_cache=False).logits[0].cpu()
    finally:
        for handle in handles:
            handle.remove()
    return logits, seen


def hook(model: LoadedModel, site_name, layer: int, see):
    """Show `see` a copy of one layer's activations [token, unit, width]; it may change them."""
    site = model.layout.site(site_name)

    def before(_module, inputs):
        x = inputs[0].clone()
        see(x[0].view(x.shape[1], site.units, site.width))
        return (x, *inputs[1:])

    def after(_module, _inputs, output):
        x = (output[0] if isinstance(output, tuple) else output).clone()
        see(x[0].view(x.shape[1], site.units, site.width))
        return (x, *output[1:]) if isinstance(output, tuple) else x

    if site.side == "input":
        return site.modules[layer].register_forward_pre_hook(before)
    return site.modules[layer].register_forward_hook(after)


def only(operation, i: int, like: torch.Tensor):
    """The operation of its i-th unit alone."""
    fields = operation.__dataclass_fields__
    return type(operation)(
        **{name: getattr(operation, name)[i : i + 1].to(like) for name in fields}
    )
