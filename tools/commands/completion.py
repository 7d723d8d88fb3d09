"""`mycomesh completion SHELL`: a script with which the shell completes commands and options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.tools import cli, exits

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["SHELLS", "add_arguments", "run"]

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help="the shell")


def run(args: argparse.Namespace, _home: Home) -> int:
    """Print the script, generated from the commands' argument parsers."""
    known = {command.name: cli.parser_of(command) for command in cli.COMMANDS}
    words = {name: _words(parser) for name, parser in known.items()}
    summaries = {command.name: command.summary for command in cli.COMMANDS}
    match args.shell:
        case "bash":
            print(_bash(words))
        case "zsh":
            print(f"#compdef mycomesh\nautoload -U +X bashcompinit && bashcompinit\n{_bash(words)}")
        case _:
            print(_fish(words, summaries))
    return exits.DONE


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """Return the words that may follow a command: its options, and the values of arguments with choices."""
    found: list[str] = []
    for action in parser._actions:  # noqa: SLF001 -- argparse has no public list of its actions
        found += action.option_strings
        if action.choices is not None and not action.option_strings:
            found += [str(choice) for choice in action.choices]
    return found


def _bash(words: dict[str, list[str]]) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(found)}" ;;' for name, found in words.items())
    return f"""_mycomesh() {{
  local word words="" current="${{COMP_WORDS[COMP_CWORD]}}" command="" skip="" at
  for ((at = 1; at < COMP_CWORD; at++)); do
    word="${{COMP_WORDS[at]}}"
    if [ -n "$skip" ]; then skip=""; continue; fi
    case "$word" in
      --home) skip=1 ;;
      -*) ;;
      *) command="$word"; break ;;
    esac
  done
  case "$command" in
    "") words="--home --help --version {" ".join(words)}" ;;
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _mycomesh mycomesh"""


def _fish(words: dict[str, list[str]], summaries: dict[str, str]) -> str:
    lines = []
    for name, found in words.items():
        summary = summaries[name].replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"complete -c mycomesh -n __fish_use_subcommand -f -a {name} -d '{summary}'")
        for word in found:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" if word[0] == "-" else f"-a {word}"
            lines.append(f"complete -c mycomesh -n '__fish_seen_subcommand_from {name}' {kind}")
    return "\n".join(lines)
