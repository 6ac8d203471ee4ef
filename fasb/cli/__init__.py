"""The `fasb` command: one's own model, files, and `run` for the stages of a study.

Commands are imported when they are called, so that `fasb --help` needs no torch.
"""

import importlib
import io
import itertools
import os
import sys

import click

from fasb.errors import did_you_mean

COMMANDS = {
    "fasb.cli.user": ("fit", "steer", "evaluate", "show", "export", "compile"),
    "fasb.cli.chat": ("chat",),
    "fasb.cli.get": ("get",),
    "fasb.cli.verify": ("verify", "explain", "crate"),
    "fasb.cli.run": ("run",),
    "fasb.cli.study": ("plan", "study", "schema"),
    "fasb.cli.sweep": ("sweep",),
}
"""Module of each group of commands. The function of a command is called like it, `_` for `-`,
`_command` appended."""


class Commands(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the pipeline."""
        return list(itertools.chain.from_iterable(COMMANDS.values()))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module now, and return the command."""
        for module, names in COMMANDS.items():
            if name in names:
                command: click.Command = getattr(
                    importlib.import_module(module), f"{name.replace('-', '_')}_command"
                )
                return command
        raise click.UsageError(
            f"no command {name!r}; {did_you_mean(name, self.list_commands(ctx))}"
        )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="fasb", message="fasb %(version)s")
def group(debug: bool) -> None:
    """Flexible activation steering with backtracking."""


def main() -> None:
    """Run the command line; what goes wrong is one line on stderr (see `border.py`)."""
    from fasb.cli.border import guarded

    # before torch is imported: a cache that grows then takes half of a GPU's memory, and a fifth
    # less time (docs/benchmarks.md); what somebody has set stands
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # what a terminal's encoding lacks is shown as `?`; an answer is not lost for it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # click by itself would print errors and end the process before `guarded` sees them; `--debug`
    # is looked for by hand, as an error in the options comes before they are parsed
    sys.exit(guarded(lambda: group(prog_name="fasb", standalone_mode=False), "--debug" in sys.argv))
