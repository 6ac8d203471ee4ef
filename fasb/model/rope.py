"""How long a text may be: a model's context, and rotary positions that hang on the longest text.

In: a model's config. Out: up to how many tokens a text is read as it was trained to be.
"""

from typing import Any

from fasb.errors import ModelError


def fixed_until(config: Any) -> int | None:
    """Return up to how many tokens the frequencies are those of any shorter text; None: always.

    `config`: of the part that decodes text. Beyond, `longrope` takes other frequencies for all
    positions of all rows, and dynamic NTK stretches them.
    """
    given = getattr(config, "rope_parameters", None) or {}
    # some models have one set for each kind of layer
    sets = [one for one in given.values() if isinstance(one, dict)] or [given]
    limits = []
    for one in sets:
        kind = str(one.get("rope_type", "default"))
        # PhiMoE scales by length whatever the kind
        if kind == "longrope" or "long_mscale" in one:
            limits.append(int(one["original_max_position_embeddings"]))
        elif "dynamic" in kind:
            limits.append(int(config.max_position_embeddings))
    return min(limits, default=None)


def context_of(config: Any) -> int | None:
    """Return how many tokens the model was made for; None where its positions have no end."""
    found = getattr(config, "max_position_embeddings", None)
    return None if found is None else int(found)


def readable_until(config: Any) -> int | None:
    """Return up to how many tokens `check_length` refuses nothing; None: however many."""
    limits = [fixed_until(config), context_of(config)]
    return min((limit for limit in limits if limit is not None), default=None)


def check_length(name: str, config: Any, longest: int) -> None:
    """Refuse a text beyond the context, or that changes the frequencies of every row in its batch.

    Beyond its context a model with rotary positions reads on, and what it says there means nothing.

    Raises:
        ModelError: naming the model and its limit.
    """
    limit = fixed_until(config)
    if limit is not None and longest > limit:
        raise ModelError(
            f"{name}: a text has {longest:,} tokens, its answer included, but beyond {limit:,} the "
            "model's rotary positions (rope) change with the longest text in the batch, and "
            "answers with them; shorten the texts, or choose another model"
        )
    context = context_of(config)
    if context is not None and longest > context:
        raise ModelError(
            f"{name}: the longest text has {longest:,} tokens, its answer included, but the "
            f"model's context is {context:,}; shorten prompt.prefix or the questions, or choose "
            "another model"
        )
