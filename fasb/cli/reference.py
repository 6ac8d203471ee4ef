"""`docs/cli.md`: every command's help in one page. Run `python -m fasb.cli.reference > docs/cli.md`."""

import click

from fasb.cli import COMMANDS, group

TITLES = {
    "fasb.cli.user": "Your own model",
    "fasb.cli.world": "Models that the study trains",
    "fasb.cli.stages": "Stages of a study",
    "fasb.cli.outputs": "Tables, figures, report",
    "fasb.cli.study": "Configurations",
}

HEAD = """# Commands

`fasb --help` lists them, `fasb COMMAND --help` is what stands here. An error is one line and exit code 2; `fasb --debug
COMMAND` shows the traceback. Data goes to standard output, progress to standard error. `--settings` of the stages holds
exactly the sections that a step uses; a study passes them (docs/artifacts.md says what each step writes).
"""


def reference() -> str:
    """The page, at a fixed width."""
    width = {"terminal_width": 100, "max_content_width": 100}
    context = click.Context(group, info_name="fasb", **group.context_settings, **width)
    parts = [HEAD]
    for module, names in COMMANDS.items():
        parts.append(f"## {TITLES[module]}\n")
        for name in names:
            command = group.get_command(context, name)
            assert command is not None
            own = click.Context(command, info_name=name, parent=context, **width)
            parts.append(f"### fasb {name}\n\n```text\n{command.get_help(own)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    click.echo(reference(), nl=False)
