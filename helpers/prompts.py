"""How a text is put to the model: plain, or as turns of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import LanguageModel

SLOT = "{text}"  # where the text goes
Turn = tuple[str, str]  # what is asked, and what is answered


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

    def ask(self, text: str) -> str:
        """One text in its slot.

        Parameters
        ----------
        text : str
            The text.

        Returns
        -------
        str
            Where the slot is at the very end, white space there gives way to a label.
        """
        filled = self.item.replace(SLOT, text)
        return filled.rstrip() if self.item.endswith(SLOT) else filled

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
        """
        if self.chat:
            return self._joined(model, self._shown(), [], self.ask(text))
        return self.plain(text)

    def plain(self, text: str) -> str:
        """The prompt that asks for the label of a text, without any template.

        Parameters
        ----------
        text : str
            The text.

        Returns
        -------
        str

        Examples
        --------
        >>> Prompt("Review: {text}\\nSentiment:").plain("A bore.")
        'Review: A bore.\\nSentiment:'
        """
        return self._plain(self._shown(), [], self.ask(text))

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

    def _shown(self) -> list[list[Turn]]:
        return [[(self.ask(example), label)] for example, label in self.examples]

    def follow_up(
        self,
        model: LanguageModel,
        text: str,
        label: str,
        question: str,
        examples: Sequence[tuple[str, str, str]],
    ) -> str:
        """The prompt that asks something about a label that was given to a text.

        Parameters
        ----------
        model : LanguageModel
            Whose chat template is used, if any.
        text : str
            The text.
        label : str
            The answer it got.
        question : str
            What is asked about that answer.
        examples : sequence of (str, str, str)
            Texts, labels, and answers to the question: they take the place of the
            prompt's own examples.

        Returns
        -------
        str
        """
        shown = [
            [(self.ask(example), given), (question, answer)]
            for example, given, answer in examples
        ]
        return self._joined(model, shown, [(self.ask(text), label)], question)

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
            return model.chat(asked, system=self.instruction, examples=turns)
        return self._plain(shown, so_far, asked)

    def _plain(
        self, shown: Sequence[Sequence[Turn]], so_far: Sequence[Turn], asked: str
    ) -> str:
        first = [self.instruction] if self.instruction else []
        done = ["\n".join(map(_answered, turns)) for turns in shown]
        last = "\n".join([*map(_answered, so_far), asked])
        return self.separator.join([*first, *done, last])


def _answered(turn: Turn) -> str:
    question, answer = turn
    return f"{question}{'' if question[-1].isspace() else ' '}{answer}"
