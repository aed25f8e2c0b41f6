"""From a label to the token sequences that express it.

Each sequence is counted once, and labels whose sequences overlap are refused, so that
label probabilities can be added. A *terminator* makes the end of the answer part of the
event: with it, "no" is no longer contained in "not sure".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

from .checks import check_choice
from .prompts import seam

if TYPE_CHECKING:
    from .models import LanguageModel

FAMILIES = ("exact", "case", "wide")
_LEADS = {"exact": 1, "case": 2, "wide": 3}  # the fitting one, the other, a line break
_QUOTES = "\"'`“”‘’"
_KEPT = 256  # verbalizers that are kept for one model


def written_forms(texts: Sequence[str], family: str) -> tuple[str, ...]:
    """Texts that a spelling family takes for the same, each once, without a space."""
    forms = list(texts)
    if family != "exact":
        cased = (
            (f, f.lower(), f[:1].upper() + f[1:].lower(), f.upper()) for f in forms
        )
        forms = [form for forms_of_one in cased for form in forms_of_one]
    if family == "wide":
        forms += [f"{q}{form}{q}" for q in "\"'" for form in forms]
    return tuple(dict.fromkeys(forms))


@dataclass(frozen=True)
class LabelTrie:
    """The token sequences of a set of labels, merged where they begin alike."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    leaves: tuple[int, ...]

    @classmethod
    def build(cls, sequences: Sequence[Sequence[int]]) -> LabelTrie:
        """Merge token sequences, each at least one long, into a trie."""
        tokens, parents, leaves = [-1], [-1], []
        children: dict[tuple[int, int], int] = {}
        for sequence in sequences:
            node = 0
            for token in sequence:
                step = (node, token)
                if step not in children:
                    children[step] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = children[step]
            leaves.append(node)
        return cls(tuple(tokens), tuple(parents), tuple(leaves))

    @cached_property
    def depths(self) -> tuple[int, ...]:
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return tuple(depths)


@dataclass(frozen=True)
class LabelTokens:
    """What a verbalizer became for one model and one prompt."""

    labels: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]
    owners: tuple[int, ...]
    stop_ids: tuple[int, ...] = ()

    @cached_property
    def trie(self) -> LabelTrie:
        return LabelTrie.build(self.sequences)

    def describe(self, model: LanguageModel) -> list[tuple[str, list[str]]]:
        """Pairs of label and tokens, one a sequence, spaces made visible."""
        return [
            (self.labels[owner], model.visible_texts(sequence))
            for owner, sequence in zip(self.owners, self.sequences, strict=True)
        ]


@dataclass(frozen=True)
class Verbalizer:
    """Which texts express which label.

    Parameters
    ----------
    labels : sequence of str
        At least two, all different.
    family : {"exact", "case", "wide"}, default="exact"
        "exact": the label as written, after a space where the prompt calls for one.
        "case": also lower, Capital and UPPER case, with and without the space.
        "wide": also after a line break and in quotes. "case" and "wide" include every
        single token of the vocabulary that reads as the label.
    spellings : mapping of str to sequence of str, optional
        Texts for a label, beside or instead of the label itself, as in
        ``{"positive": ["positive", "good"]}``; labels not named express themselves.
    terminator : str or sequence of str, optional
        The answer must go on with a token that begins with one of these, as in
        ``"\\n"``. Without one, the answer need only begin with the label.

    Examples
    --------
    >>> from helpers.models import LanguageModel
    >>> model = LanguageModel.load()
    >>> found = Verbalizer(["yes", "no"], family="case").tokens(model, after="A:")
    >>> [tokens for label, tokens in found.describe(model) if label == "no"][:2]
    [['␣no'], ['␣No']]
    """

    labels: Sequence[str]
    family: str = "exact"
    spellings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    terminator: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.labels, str):
            raise ValueError(f"labels must be several strings, not {self.labels!r}.")
        labels = tuple(self.labels)
        _check_visible("labels", labels)
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise ValueError(f"labels must all be different; repeated: {repeated!r}.")
        if len(labels) < 2:
            raise ValueError(f"labels must be at least two, not {labels!r}.")
        check_choice("family", self.family, FAMILIES)
        unknown = sorted(set(self.spellings) - set(labels))
        if unknown:
            raise ValueError(f"spellings names labels that are not there: {unknown!r}.")
        for label, texts in self.spellings.items():
            if isinstance(texts, str) or not texts:
                raise ValueError(
                    f"spellings of {label!r} must be several strings, not {texts!r}."
                )
            _check_visible(f"spellings of {label!r}", texts)
        written = all(isinstance(end, str) and end for end in self._ends)
        if self.terminator is not None and not (self._ends and written):
            raise ValueError(
                "terminator must not be empty, nor other than text, as in "
                f"{self._ends!r}."
            )
        object.__setattr__(self, "labels", labels)

    @property
    def _ends(self) -> tuple[str, ...]:
        ends = () if self.terminator is None else self.terminator
        return (ends,) if isinstance(ends, str) else tuple(ends)

    def texts(self, label: str) -> tuple[str, ...]:
        """Texts that express a label, before any leading space, each once."""
        texts = [text.strip() for text in self.spellings.get(label, (label,))]
        return written_forms(texts, self.family)

    def leads(
        self, label: str, after: str, control: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """What may stand between the end of a prompt and a label."""
        natural = seam(after, self.texts(label)[0], control)
        return (natural, "" if natural else " ", "\n")[: _LEADS[self.family]]

    def tokens(self, model: LanguageModel, *, after: str) -> LabelTokens:
        """Token sequences of every label as they follow a prompt, or the end of one.

        ``after`` must not end in a space, which the verbalizer adds. Labels that share
        a sequence, or where one begins another without a terminator, are a ValueError.
        """
        spelled = tuple((label, self.texts(label)) for label in self.labels)
        key, known = (spelled, self.family, self._ends, after), model.label_tokens
        if key not in known:
            found = self._spelled(model, after)
            if len(known) == _KEPT:
                known.clear()
            known[key] = found
        return known[key]

    def _spelled(self, model: LanguageModel, after: str) -> LabelTokens:
        if after.endswith(" "):
            raise ValueError(
                f"after must not end in a space, as {after[-20:]!r} does: tokenizers "
                "join that space with the label."
            )
        owned: dict[tuple[int, ...], int] = {}
        for index, label in enumerate(self.labels):
            leads = self.leads(label, after, model.control_tokens)
            found = [
                _tokens_behind(model, after, lead + text)
                for lead, text in product(leads, self.texts(label))
            ]
            if self.family != "exact":
                found += self._from_vocabulary(model, label)
            for sequence in dict.fromkeys(found):
                other = owned.setdefault(sequence, index)
                if other != index:
                    raise ValueError(
                        f"labels {self.labels[other]!r} and {label!r} share the tokens "
                        f"{model.token_texts(sequence)!r}; make them differ."
                    )
        stop_ids = self._stop_ids(model)
        kept = _prefix_free(owned, self.labels, frozenset(stop_ids))
        return LabelTokens(
            tuple(self.labels), tuple(kept), tuple(kept.values()), stop_ids
        )

    def _from_vocabulary(
        self, model: LanguageModel, label: str
    ) -> list[tuple[int, ...]]:
        """Single tokens that read as the label, whatever their case and spaces."""
        strip = " " if self.family == "case" else " \n" + _QUOTES
        forms = self.spellings.get(label, (label,))
        wanted = {form.strip().casefold() for form in forms}
        return [
            (token_id,)
            for token_id, text in enumerate(model.vocabulary)
            if text.strip(strip).casefold() in wanted
            and text not in model.control_tokens
        ]

    def _stop_ids(self, model: LanguageModel) -> tuple[int, ...]:
        if not self._ends:
            return ()
        found = tuple(
            token_id
            for token_id, text in enumerate(model.vocabulary)
            if text.startswith(self._ends)
        )
        if not found:
            raise ValueError(
                f"terminator {self._ends!r} begins no token of {model.name}."
            )
        return found


def _check_visible(name: str, texts: Sequence[str]) -> None:
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"{name} must be strings with visible characters, not {text!r}."
            )


def _tokens_behind(model: LanguageModel, before: str, text: str) -> tuple[int, ...]:
    """Tokens of ``text`` as it follows ``before``, without splitting a merge."""
    start = tuple(model.encode(before)) if before else ()
    whole = tuple(model.encode(model.fill(text, before)))
    if whole[: len(start)] == start and len(whole) > len(start):
        return whole[len(start) :]
    return tuple(model.text_ids(text))


def _prefix_free(
    owned: Mapping[tuple[int, ...], int],
    labels: Sequence[str],
    stop_ids: frozenset[int],
) -> dict[tuple[int, ...], int]:
    """Drop or refuse sequences that another one contains as events."""
    kept = {}
    for sequence, owner in owned.items():
        inside = [
            owned[sequence[:n]]
            for n in range(1, len(sequence))
            if sequence[:n] in owned and (not stop_ids or sequence[n] in stop_ids)
        ]
        clash = [other for other in inside if other != owner]
        if clash:
            raise ValueError(
                f"label {labels[clash[0]]!r} is a prefix of label {labels[owner]!r} in "
                "tokens, so that the first would contain the second. Give a "
                'terminator, such as terminator="\\n".'
            )
        if not inside:
            kept[sequence] = owner
    return kept
