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
Turn = tuple[str, str | None]  # what is asked, and what is answered
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
    if kind == "Ps" or end in "<¿¡" or (end in "#@$\\" and run == 1):
        return ""
    if _TAG.search(line):
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
    >>> Prompt("Review: {text}", instruction="Be brief.").messages("A bore.")[1]
    {'role': 'user', 'content': 'Review: A bore.'}
    """

    item: str
    examples: Sequence[tuple[str, str]] = ()
    instruction: str | None = None
    separator: str = "\n\n"
    chat: bool = False

    def ask(self, text: str, fill: Callable[..., str] = _between) -> str:
        """One text in its slot, by :meth:`LanguageModel.fill` if a model is known."""
        before, after = self.item.split(SLOT)
        filled = fill(text, before, after)
        return filled if after else filled.rstrip()

    def render(self, model: LanguageModel, text: str) -> str:
        """The prompt that asks for the label of a text, for ``model.encode``."""
        return self.renderer(model)(text)

    def renderer(self, model: LanguageModel) -> Callable[[str], str]:
        """What renders texts for a model; all but the texts is written once."""
        shown = self._shown(model.fill)
        if self.chat:
            return lambda text: self._written(
                model, [*shown, [(self.ask(text, model.fill), None)]]
            )
        frame = self._plain([*shown, [("", None)]], model.control_tokens)
        return lambda text: frame + self.ask(text, model.fill)

    def follow_up(
        self,
        model: LanguageModel,
        text: str,
        label: str,
        question: str,
        examples: Sequence[tuple[str, str, str]],
    ) -> str:
        """The prompt that asks about a text's label; examples end with answers."""

        def turns(text: str, label: str, answer: str | None) -> list[Turn]:
            said = None if answer is None else model.fill(answer)
            return [(self.ask(text, model.fill), model.fill(label)), (question, said)]

        shown = [turns(*example) for example in examples]
        return self._written(model, [*shown, turns(text, label, None)])

    def plain(self, text: str) -> str:
        """The prompt that asks for the label of a text, without any template."""
        return self._plain([*self._shown(_between), [(self.ask(text), None)]])

    def messages(self, text: str) -> list[dict[str, str]]:
        """The turns that ask for the label of a text, as hosted models take them."""
        said = [("system", self.instruction)] if self.instruction else []
        for [(question, answer)] in self._shown(_between):
            said += [("user", question), ("assistant", str(answer))]
        said.append(("user", self.ask(text)))
        return [{"role": role, "content": content} for role, content in said]

    def _shown(self, fill: Callable[..., str]) -> list[list[Turn]]:
        return [[(self.ask(text, fill), fill(label))] for text, label in self.examples]

    def _written(
        self, model: LanguageModel, conversations: Sequence[Sequence[Turn]]
    ) -> str:
        if not self.chat:
            return self._plain(conversations, model.control_tokens)
        *turns, (asked, _) = [turn for part in conversations for turn in part]
        said = [(question, str(answer)) for question, answer in turns]
        return model.chat(asked, system=self.instruction, examples=said, literal=False)

    def _plain(
        self, conversations: Sequence[Sequence[Turn]], control: Sequence[str] = ()
    ) -> str:
        parts = [self.instruction] if self.instruction else []
        for turns in conversations:
            # By the frame alone: the space must not depend on a text.
            ends = [self.ask("A"), *(question for question, _ in turns[1:])]
            said = [
                asked if answer is None else asked + seam(end, answer, control) + answer
                for end, (asked, answer) in zip(ends, turns, strict=True)
            ]
            parts.append("\n".join(said))
        return self.separator.join(parts)
