"""Manual pages and shell completion, from the parsers that the commands have themselves."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, NoReturn

import shtab

from edgeslm import RELEASED, __version__
from edgeslm.cli.main import COMMANDS, usage

Words = tuple[str, ...]
SHELLS: Final = {
    "bash": "usr/share/bash-completion/completions/edgeslm",
    "zsh": "usr/share/zsh/vendor-completions/_edgeslm",
}
_SECTION: Final = 1
_FILES: Final[Mapping[str, str]] = {
    "/etc/edgeslm/agent.toml": "The settings of agent and updater; yours.",
    "/usr/share/edgeslm/agent.toml": "An example of them.",
    "/var/lib/edgeslm": "What the agent keeps: outbox, verdicts.",
    "/var/lib/edgeslm-updater": "What the updater keeps: models, what it trusts.",
}
_WIDTH: Final = 78  # of what is shown as it is laid out


class _CapturedError(Exception):
    """A command has got as far as its arguments."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parsers() -> dict[Words, argparse.ArgumentParser]:
    """Return the parser of every command: what it has made when it would read its arguments."""
    found = {}
    with _capturing():
        for words, (module, _) in COMMANDS.items():
            try:
                import_module(module).main([])
            except _CapturedError as captured:
                found[words] = captured.parser
    return found


def pages() -> dict[str, str]:
    """Return each manual page by its file name: one of edgeslm, one of every command."""
    made = {_file("edgeslm"): _overview()}
    for words, parser in parsers().items():
        made[_file(_page(words))] = _manual(words, parser)
    return made


def completion(shell: str) -> str:
    """Return what completes `edgeslm` in bash or zsh: commands, options, choices, files."""
    whole = argparse.ArgumentParser(prog="edgeslm")
    whole.add_argument("--version", action="store_true", help="say which edgeslm this is")
    commands = whole.add_subparsers()
    groups: dict[str, Any] = {}
    for words, parser in parsers().items():
        at = commands
        if len(words) > 1:
            if words[0] not in groups:
                group = commands.add_parser(words[0], help=f"{words[0]} commands")
                groups[words[0]] = group.add_subparsers()
            at = groups[words[0]]
        copy = at.add_parser(words[-1], parents=[parser], add_help=False, help=COMMANDS[words][1])
        _complete_files(copy)
    made: str = shtab.complete(whole, shell=shell)
    return made


@contextmanager
def _capturing() -> Iterator[None]:
    kept = argparse.ArgumentParser.parse_args

    def captured(self: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise _CapturedError(self)

    argparse.ArgumentParser.parse_args = captured  # type: ignore[method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = kept  # type: ignore[method-assign]


def _complete_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:  # noqa: SLF001 -- argparse tells by no other way
        if getattr(action.type, "__name__", "") == "Path":
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _page(words: Words) -> str:
    return "-".join(("edgeslm", *words))


def _file(name: str) -> str:
    return f"{name}.{_SECTION}"


def _overview() -> str:
    rows = "".join(
        f".TP\n.BR {_page(words)} ({_SECTION})\n{_escaped(text)}\n"
        for words, (_, text) in COMMANDS.items()
    )
    return (
        _head("edgeslm", "a small language model next to the machine")
        + _verbatim("SYNOPSIS", usage().partition("\n")[0].removeprefix("usage: "))
        + f".SH COMMANDS\n{rows}"
        + ".SH FILES\n"
        + "".join(f".TP\n.I {path}\n{what}\n" for path, what in _FILES.items())
    )


def _manual(words: Words, parser: argparse.ArgumentParser) -> str:
    name, summary = _page(words), COMMANDS[words][1]
    parser.prog = " ".join(("edgeslm", *words))
    synopsis = " ".join(parser.format_usage().split()).removeprefix("usage: ")
    wrapped = textwrap.fill(
        synopsis,
        _WIDTH,
        subsequent_indent=" " * 4,
        break_on_hyphens=False,
    )
    page = _head(name, summary) + _verbatim("SYNOPSIS", wrapped)
    if parser.description:
        text = parser.description
        page += f".SH DESCRIPTION\n{_escaped(text[:1].upper() + text[1:])}\n"
    page += "".join(_options(parser))
    if parser.epilog:
        page += _verbatim("NOTES", parser.epilog.strip("\n"))
    return page + f".SH SEE ALSO\n.BR edgeslm ({_SECTION})\n"


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a section for each of the parser's groups that has something in it."""
    formatter = parser.formatter_class(prog=parser.prog)
    for group in parser._action_groups:  # noqa: SLF001 -- argparse tells by no other way
        shown = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]  # noqa: SLF001
        if shown:
            yield f".SH {_escaped((group.title or 'options').upper())}\n"
        for action in shown:
            invocation = formatter._format_action_invocation(action)  # noqa: SLF001
            # What the parser shows: `%(default)s` and the like filled in.
            text = formatter._expand_help(action) if action.help else ""  # noqa: SLF001
            choices = f"One of {', '.join(map(str, action.choices))}." if action.choices else ""
            told = _escaped(". ".join(filter(None, (text, choices)))) or r"\&"
            yield f".TP\n.B {_escaped(invocation)}\n{told}\n"


def _head(name: str, summary: str) -> str:
    title = f'.TH {name.upper()} {_SECTION} {RELEASED} "edgeslm {__version__}"\n'
    return f"{title}.SH NAME\n{_escaped(name)} \\- {_escaped(summary)}\n"


def _verbatim(title: str, text: str) -> str:
    return f".SH {title}\n.nf\n{_escaped(text)}\n.fi\n"


def _escaped(text: str) -> str:
    """Return `text` so that troff shows it as it is."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{x}" if x[:1] in {".", "'"} else x for x in safe.splitlines())
