"""Names that are most likely another name misspelt."""

from __future__ import annotations

from collections.abc import Iterable

# Attributes of a plugin's own have common words for names. Names shorter than this have too many words one edit away from them ("task"
# and "ask", "find" and "kind"): only two letters in the wrong order count. Where they are of just this length, another letter in a
# letter's place makes a word too ("seeds" and "needs").
_SHORT = 5


def misspelt(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` is one edit away from: a letter too many, too few or another, or two neighbours swapped."""
    return next((name for name in sorted(known) if _is_misspelling(word, name)), None)


def misspelt_method(word: str, known: Iterable[str]) -> str | None:
    """As `misspelt`, and by another letter too where the name has five: such a method was most likely meant to be it."""
    return next((name for name in sorted(known) if len(name) >= _SHORT and one_edit(word, name)), None)


def _is_misspelling(word: str, name: str) -> bool:
    edit = one_edit(word, name)
    if len(name) < _SHORT:
        return edit == "swap"
    return edit != "" and not (edit == "substitution" and len(name) == _SHORT)


def one_edit(one: str, other: str) -> str:
    """The edit that makes one text of the other: "insertion", "deletion", "substitution" or "swap"; "" where more or none is needed."""
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    one, other = one[start:], other[start:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    if len(one) == len(other) == 2 and one == other[::-1]:
        return "swap"
    return {(1, 0): "deletion", (0, 1): "insertion", (1, 1): "substitution"}.get((len(one), len(other)), "")
