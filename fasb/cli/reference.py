"""`docs/cli.md`: every command's help in one page.

Run `python -m fasb.cli.reference > docs/cli.md`.
"""

import click

from fasb.cli import COMMANDS, group

TITLES = {
    "fasb.cli.user": "Your own model",
    "fasb.cli.chat": "A conversation",
    "fasb.cli.get": "A model to try things on",
    "fasb.cli.verify": "Files",
    "fasb.cli.run": "Stages of a study",
    "fasb.cli.study": "Studies and their configuration",
    "fasb.cli.sweep": "Sweeps compared",
}

HEAD = """# Commands

`fasb --help` lists them, `fasb COMMAND --help` is what stands here. An error is one line and exit
code 2; of a fault of the program itself (exit code 1) the line names the log with the traceback.
`fasb --debug COMMAND` shows it instead. Ctrl-C is exit code 130. Data goes to standard output,
progress to standard error.
"""

RUN_HEAD = """\
By hand, a stage is one line in the folder where `./study` runs. The study is that of the
workflow's last run; `fasb study` writes another. What a stage reads, writes and depends on is
declared once, in `fasb/study/stages/`; docs/artifacts.md says what is in the files. Here is one job
of each of the default study, in the order of the pipeline:
"""


def reference() -> str:
    """Return the page, at a fixed width."""
    context = _context(group, "fasb")
    parts = [HEAD]
    for module, names in COMMANDS.items():
        parts.append(f"## {TITLES[module]}\n")
        for name in names:
            command = group.get_command(context, name)
            assert command is not None
            parts += _sections(command, f"fasb {name}", _context(command, name, context))
            if name == "run":
                parts += [RUN_HEAD, stage_table()]
    return "\n".join(parts)


def _sections(command: click.Command, title: str, context: click.Context) -> list[str]:
    """Write a command's help, or that of each command of a group."""
    if not isinstance(command, click.Group):
        return [f"### {title}\n\n```text\n{command.get_help(context)}\n```\n"]
    parts = []
    for name, one in command.commands.items():
        parts += _sections(one, f"{title} {name}", _context(one, name, context))
    return parts


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    context = click.Context(
        command, parent, info_name=name, terminal_width=100, max_content_width=100
    )
    # a context made by hand does not read the group's `context_settings`
    context.help_option_names = ["-h", "--help"]
    return context


def stage_table() -> str:
    """Return a command of every stage, and what it does, as a Markdown table."""
    from fasb.cli.run import examples

    rows = [f"| `{line}` | {does} |" for line, does in examples()]
    return "\n".join(["| command | does |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    click.echo(reference(), nl=False)
