"""`fasb chat`: a conversation in the terminal, whose answers are steered while they are written."""

import sys
from typing import TYPE_CHECKING, Any

import click

from fasb.cli.user import (
    BUNDLE,
    SIBLINGS,
    check_keys,
    instead_options,
    load_named,
    model_options,
    opened_bundle,
)
from fasb.errors import DataError, ModelError

if TYPE_CHECKING:
    from fasb.model.load import LoadedModel
    from fasb.steering.bundle import Bundle

QUIT = "/quit"


@click.command("chat", epilog="Example: fasb chat --model models/smollm2 --bundle my.bundle")
@model_options
@BUNDLE
@instead_options
@SIBLINGS
def chat_command(model: str, settings: dict[str, Any], siblings: bool, **options: Any) -> None:
    """Talk with a model under a bundle, until /quit or the end of the input.

    Each answer is shown as 'fasb steer' shows it, and is part of what follows. Ctrl-C stops an
    answer, which is then forgotten together with its question; between two, it ends the
    conversation. A bundle whose prompt is plain text has no conversation: there every question
    stands alone.
    """
    from fasb.cli.terminal import legend, opened_console, show
    from fasb.decoding.stream import stream
    from fasb.user.steering import attach

    check_keys(settings, "model")
    known = opened_bundle(options)  # before a model is loaded
    answering = load_named(model, settings)
    attach(answering, known, siblings)
    beta, console, said = known.policy.beta, opened_console(), []
    if console.is_terminal:
        console.print(legend(beta), f"{QUIT} ends the conversation.", sep="\n", end="\n\n")
    if known.prompt.chat == "off":
        click.echo("plain prompt: every question stands alone", err=True)
    while (question := _question()) is not None:
        said.append({"role": "user", "content": question})
        prompt = _prompt(answering, known, said)
        if prompt is None:
            continue
        try:
            page = show(console, question, stream(answering, prompt, known, siblings), beta)
        except KeyboardInterrupt:
            click.echo("stopped, and forgotten", err=True)
            said.pop()
            continue
        said.append({"role": "assistant", "content": page.answer})
        # a plain prompt has a place for one question and none for what was said before
        if known.prompt.chat == "off":
            said.clear()


def _prompt(model: "LoadedModel", bundle: "Bundle", said: list[dict[str, str]]) -> list[int] | None:
    """Return the prompt of a conversation, which loses what does not fit; None if nothing does."""
    from fasb.user.steering import prompts_of

    while said:
        try:
            (prompt,) = prompts_of(model, bundle, [said])
        except ModelError as error:
            before = len(said) > 1
            forgotten = "what was said before" if before else "this line"
            click.echo(f"{error}; {forgotten} is forgotten", err=True)
            said[:] = said[-1:] if before else []
        else:
            return prompt
    return None


def _question() -> str | None:
    """Return the next line that is not empty; None at the end of the conversation.

    Raises:
        DataError: the input is not text.
    """
    if sys.stdin is None:  # closed by whoever started the program
        return None
    asks = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(asks).strip()
        except (EOFError, KeyboardInterrupt):
            if asks:
                click.echo()  # the terminal's own prompt begins on a line of its own
            return None
        except UnicodeDecodeError:
            raise DataError("standard input: not UTF-8; give text in UTF-8") from None
        if line == QUIT:
            return None
        if line:
            return line
