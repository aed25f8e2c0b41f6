"""How a text is put to the model: plain, or as turns of a chat."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import LanguageModel

SLOT = "{text}"  # where the text goes
# Keeps what a text spells from being read as a control token; no text has use for it.
MARK = "\ufdd0"
Turn = tuple[str, str]  # what is asked, and what is answered
_SCRIPTS = ("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
_TAG = re.compile(r"<[^<>\s][^<>]*>$")


def seam(before: str, answer: str, control: Sequence[str] = ()) -> str:
    """The space that belongs between the end of a prompt and an answer, if one does."""
    end, line = before[-1:], before.rpartition("\n")[2]
    if not end.strip() or before.endswith(tuple(control)) or _is_unspaced(end):
        return ""
    words = re.findall(r"\w", line)
    if words and _is_wide(words[-1]) and _is_wide(answer[:1]):
        return ""
    run = len(line) - len(line.rstrip(end))
    left = line[:-run][-1:]
    kind = unicodedata.category(end)
    if (
        kind == "Ps"
        or end in "<¿¡"
        or _TAG.search(line)
        or (end in "#@$\\" and run == 1)
    ):
        return ""
    if (end in "=/" or kind == "Pd") and re.search(r"\w[^\w\s]*$", line):
        return ""
    # A mark opens where no word or sentence ends before it and, where the same one also
    # closes, it is not the second of a pair. A star that begins a line begins a list.
    ended = left.isalnum() or left in tuple(".!?…)]}”’")
    mark = "[«»]" if end == "»" else re.escape(end)
    seen = re.findall(rf"(?<!\w){mark}+|{mark}+(?!\w)", line)  # not those within words
    odd = len("".join(seen)) // run % 2 == 1
    if end == "_" and odd or kind == "Pi" and not ended:
        return ""
    opens = end in "\"'`*~”»" and odd and not ended and line != "*"
    return "" if opens else " "


def _is_wide(character: str) -> bool:
    """Whether it is set without spaces in Chinese or Japanese."""
    if not character or unicodedata.east_asian_width(character) not in "WF":
        return False
    name = unicodedata.name(character, "")
    return unicodedata.category(character) != "So" and "HANGUL" not in name


def _is_unspaced(character: str) -> bool:
    return _is_wide(character) or unicodedata.name(character, "").startswith(_SCRIPTS)


def _between(text: str, before: str = "", after: str = "") -> str:
    return before + text + after


@dataclass(frozen=True)
class Prompt:
    """The frame of a prompt, and the examples in it.

    Attributes
    ----------
    item : str
        How one text is asked about, with ``{text}`` once.
    examples : sequence of (str, str)
        Texts with their labels.
    instruction : str or None
        What stands before everything else, once.
    separator : str
        What stands between two examples of a plain prompt.
    chat : bool
        Whether the model's chat template is used.

    Examples
    --------
    >>> from helpers.models import LanguageModel
    >>> prompt = Prompt("Review: {text}\\nSentiment:", [("A joy.", "good")])
    >>> print(prompt.render(LanguageModel.load(), "A bore."))
    Review: A joy.
    Sentiment: good
    <BLANKLINE>
    Review: A bore.
    Sentiment:
    """

    item: str
    examples: Sequence[Turn] = ()
    instruction: str | None = None
    separator: str = "\n\n"
    chat: bool = False

    def ask(self, text: str, fill: Callable[..., str] = _between) -> str:
        """One text in its slot, by :meth:`LanguageModel.fill` where a model is known.

        White space at the very end gives way to a label where the slot is there.
        """
        before, after = self.item.split(SLOT)
        filled = fill(text, before, after)
        return filled if after else filled.rstrip()

    def render(self, model: LanguageModel, text: str) -> str:
        """The prompt that asks for the label of a text.

        Parameters
        ----------
        model : LanguageModel
            Whose chat template is used, if any.
        text : str
            The text.

        Returns
        -------
        str
            For :meth:`LanguageModel.encode`: control tokens that texts and labels
            spell are marked as text.
        """
        asked = self.ask(text, model.fill)
        return self._joined(model, self._shown(model.fill), [], asked)

    def plain(self, text: str) -> str:
        """The prompt that asks for the label of a text, without any template."""
        return self._plain(self._shown(_between), [], self.ask(text))

    def messages(self, text: str) -> list[dict[str, str]]:
        """The turns of a conversation that ask for the label of a text.

        Parameters
        ----------
        text : str
            The text.

        Returns
        -------
        list of dict of str to str
            Each with ``role`` and ``content``, as hosted models take them.

        Examples
        --------
        >>> Prompt("Review: {text}", instruction="Be brief.").messages("A bore.")
        [{'role': 'system', 'content': 'Be brief.'}, \
{'role': 'user', 'content': 'Review: A bore.'}]
        """
        turns = [("system", self.instruction)] if self.instruction else []
        for example, label in self.examples:
            turns += [("user", self.ask(example)), ("assistant", label)]
        turns.append(("user", self.ask(text)))
        return [{"role": role, "content": content} for role, content in turns]

    def _shown(self, fill: Callable[..., str]) -> list[list[Turn]]:
        return [[(self.ask(text, fill), fill(label))] for text, label in self.examples]

    def follow_up(
        self,
        model: LanguageModel,
        text: str,
        label: str,
        question: str,
        examples: Sequence[tuple[str, str, str]],
    ) -> str:
        """The prompt that asks something about a label that was given to a text.

        Examples are texts, labels, and answers to the question: they take the place of
        the prompt's own.
        """
        fill = model.fill
        shown = [
            [(self.ask(example, fill), fill(given)), (question, fill(answer))]
            for example, given, answer in examples
        ]
        return self._joined(
            model, shown, [(self.ask(text, fill), fill(label))], question
        )

    def _joined(
        self,
        model: LanguageModel,
        shown: Sequence[Sequence[Turn]],
        so_far: Sequence[Turn],
        asked: str,
    ) -> str:
        """Conversations one after the other; the last one waits for an answer."""
        if self.chat:
            turns = [turn for part in (*shown, so_far) for turn in part]
            return model.chat(
                asked, system=self.instruction, examples=turns, literal=False
            )
        return self._plain(shown, so_far, asked, model.control_tokens)

    def _plain(
        self,
        shown: Sequence[Sequence[Turn]],
        so_far: Sequence[Turn],
        asked: str,
        control: Sequence[str] = (),
    ) -> str:
        def answered(turns: Sequence[Turn]) -> list[str]:
            # By the frame alone: the space must not depend on a text.
            ends = [self.ask("A"), *(question for question, _ in turns[1:])]
            return [
                f"{question}{seam(end, answer, control)}{answer}"
                for end, (question, answer) in zip(ends, turns, strict=False)
            ]

        first = [self.instruction] if self.instruction else []
        done = ["\n".join(answered(turns)) for turns in shown]
        last = "\n".join([*answered(so_far), asked])
        return self.separator.join([*first, *done, last])
