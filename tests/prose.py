"""Phrases that our docstrings, comments, messages and documents avoid, and a search for them.

`python -m tests.prose [PATH...]` prints each occurrence with what to write instead; tests/test_prose.py holds the count at zero.
The list is docs/CONTRIBUTING.md's rule for prose as far as a search can check it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

# Pattern, what to write instead. Matched without regard to case against text whose line breaks are spaces.
PHRASES = (
    (r"\banew\b", "again; or rebuilt, recreated, restarted"),
    (r"\bof ours\b", "our X; or the node's X"),
    (r"\bstands\b", "is, remains, holds, applies"),
    (r"\bstood\b", "was, remained, applied"),
    (r"\bis none\b", "does not exist; or there is no X"),
    (r"\b(is|are|was|were|be|been) told\b", "we tell X; X learns, reports, receives"),
    (r"\btold of\b", "reported, announced; X learns about Y"),
    (r"\bgoes by\b", "uses, is named, is known as"),
    (r"\bin line with\b", "equal to, consistent with, matches"),
    (r"\bmakes itself\b", "name what it does"),
    (r"\bhas it that\b", "says, requires, finds"),
    (r"\bby the word of\b", "because X says so; on X's report"),
    (r"\bno part of\b", "not part of; or say what X does not do"),
    (r"\bmust not know\b", "an import contract says what a module may import"),
    (r"\bwhat always holds\b", "Invariant: ... (and a test that holds it)"),
    (r"(^|[.:;] )Owns (the|what|how|where|when|who|one|two|all|each)\b", "say what the module is"),
    (r"\bwhoever\b", "a node that, a peer that, a program that"),
    (r"\bwhat is (of|no|not)\b", "name the thing"),
    (r"\bhears? (nothing|of)\b", "receives nothing; learns about"),
    (r"\bis spoken of\b", "is logged, is reported"),
    (r"\bas (is|are) said\b", "as described in"),
    (r"\bwithout a word\b", "silently"),
    (r"\bfor good and all\b", "permanently"),
    (r"\bmend(s|ed|ing)?\b", "repair, fix"),
    (r"\ball the same\b", "anyway, still"),
    (r"\bere\b", "before"),
    (r"\btherefrom|thereof|therein\b", "plain words"),
    # A sentence that begins with a relative clause instead of an actor. A question may.
    (
        r"(?:^|[.!?:] |\s- |\| )(?:What|Who|Whoever)\b(?![^.!?|]*\?)",
        "begin with an actor: 'The node ...', 'A peer that ...'",
    ),
)
COMPILED = tuple(
    (re.compile(pattern, re.IGNORECASE if "What|Who" not in pattern else 0), instead) for pattern, instead in PHRASES
)
# Words of the wire format, of on-disk names and of the interface that other programs read: they cannot change.
CONTRACTS = re.compile(r"`[^`\n]*`|\"[a-z_]+(\.[a-z_]+)+\"|\b[A-Za-z_]*[_./][A-Za-z_./]*\b")
# Python's own tokenizer takes five times as long. A quote within a text of the same quotes is escaped, also in a raw one.
STRING_OR_COMMENT = re.compile(
    r"(?P<quotes>\"{3}|'{3})(?:\\.|(?!(?P=quotes)).)*(?P=quotes)"
    r"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|(?P<comment>#[^\n]*)",
    re.DOTALL,
)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
SKIPPED = ("docs/LICENSE", "docs/bench/history.jsonl", "tools/data/NOTICE.md", "tests/prose.py", "tests/test_prose.py")


def occurrences(path: Path) -> list[tuple[int, str, str]]:
    """Return line, the words found and what to write instead, for each phrase in a file."""
    found = []
    pieces = [(line, text, _flat(text)) for line, text in _texts(path)]
    # Most files have none of most phrases: one search of all pieces, each a sentence to itself, finds which to look for.
    together = "\n".join(f". {flat}" for _, _, flat in pieces)
    present = [(pattern, instead) for pattern, instead in COMPILED if pattern.search(together)]
    for line, text, flat in pieces:
        for pattern, instead in present:
            found += [
                (
                    line + text.count("\n", 0, match.start()),
                    text[match.start() : match.end() + 40].split("\n")[0].strip(),
                    instead,
                )
                for match in pattern.finditer(flat)
            ]
    return sorted(found)


def _flat(text: str) -> str:
    """Return a piece of prose on one line of the same length, without the words that cannot change."""
    return re.sub(r"\s", " ", CONTRACTS.sub(lambda match: "_" * len(match.group()), text))


def _texts(path: Path) -> list[tuple[int, str]]:
    """Return first line and text of each piece of prose: paragraphs of Markdown; docstrings, comments, messages of Python."""
    source = path.read_text()
    if path.suffix == ".md":
        return _paragraphs(FENCED.sub(lambda match: "\n" * match.group().count("\n"), source), 1)
    return _comments(source) + [
        piece for line, text in _constants(ast.parse(source)) for piece in _paragraphs(text, line)
    ]


def _comments(source: str) -> list[tuple[int, str]]:
    """Return first line and text of each comment; those on lines of their own that follow each other are one."""
    pieces: list[tuple[int, str]] = []
    comment: list[str] = []
    first = line = 1
    at = 0
    for match in STRING_OR_COMMENT.finditer(source):
        line, at = line + source.count("\n", at, match.start()), match.start()
        if match["comment"] is None:
            continue
        own = not source[source.rfind("\n", 0, at) + 1 : at].strip()
        text = match["comment"].lstrip("# ")
        if comment and own and line == first + len(comment):
            comment.append(text)
            continue
        if comment:
            pieces.append((first, "\n".join(comment)))
        first, comment = line, [text]
    return [*pieces, (first, "\n".join(comment))] if comment else pieces


def _constants(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and value of each constant text with a space; as `ast.walk` does, in a third of its time."""
    waiting = [tree]
    for node in waiting:
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and " " in node.value:
                yield node.lineno, node.value
            continue
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                waiting += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                waiting.append(value)


def _paragraphs(text: str, line: int) -> list[tuple[int, str]]:
    matches = re.finditer(r"(?:[^\n]+\n?)+", text)
    return [(line + text.count("\n", 0, match.start()), match.group()) for match in matches]


def tracked() -> list[Path]:
    """Return the files whose prose counts."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split() if name not in SKIPPED and (ROOT / name).is_file()]


def main() -> int:
    wanted = [Path(word).resolve() for word in sys.argv[1:]] or [ROOT]
    total = 0
    for path in tracked():
        if not any(path == root or root in path.parents for root in wanted):
            continue
        for line, words, instead in occurrences(path):
            total += 1
            print(f"{path.relative_to(ROOT)}:{line}: {words!r} -> {instead}")
    print(f"{total} occurrences")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
