"""`holdfast completion`: the script that teaches a shell to complete."""

from __future__ import annotations

import click

from ..errors import UsageError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash: eval "$(holdfast completion bash)"      in ~/.bashrc
    zsh:  eval "$(holdfast completion zsh)"       in ~/.zshrc
    fish: holdfast completion fish > ~/.config/fish/completions/holdfast.fish
    """
    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    if maker is None:
        raise UsageError(f"There is no completion for {shell} in the click that is installed. Update click.")
    click.echo(maker(ctx.find_root().command, {}, "holdfast", "_HOLDFAST_COMPLETE").source())
