"""The command line. Everything heavy is imported inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cleval_tm._version import __version__
from cleval_tm.cli import demo, evaluate, validate

_GROUPS = {"workers": "cleval_tm.cli.workers"}


class _Commands(TyperGroup):
    """The commands, and the groups of commands whose modules load when they are called for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(name for name, home in _GROUPS.items() if find_spec(home))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        home = _GROUPS.get(cmd_name)
        if home is None or not find_spec(home):
            return super().get_command(ctx, cmd_name)
        group = typer.main.get_group(import_module(home).app)
        group.name = cmd_name
        return group


app = typer.Typer(
    name="cleval-tm",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="CLEval: character-level evaluation of text detection and OCR, by each of its published rule sets.",
)
app.command("evaluate")(evaluate.command)
app.command("validate")(validate.command)
app.command("demo")(demo.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cleval-tm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; what ``cleval-tm`` and ``python -m cleval_tm`` call."""
    app(prog_name="cleval-tm")
