"""Load a causal language model and look at what it computes: the next token."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd
import torch
import transformers  # loads its parts when they are first used
from jinja2 import TemplateError
from tokenizers import Tokenizer

from . import EMBEDDED, MODEL_VARIABLE, checkpoints
from .checkpoints import ModelError, Precision, Quantisation, Source
from .checks import check_count

# Keeps what a text spells from being read as a control token; no text has use for it.
MARK = "\ufdd0"
_UNKNOWN_LENGTH = 10**9  # longer windows mean that a tokenizer does not know
_VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})

_loaded: WeakValueDictionary[Source, LanguageModel] = WeakValueDictionary()


def visible(text: str) -> str:
    """Make the spaces, tabs and line breaks of a token visible.

    >>> visible(" Yes\\n")
    '␣Yes↵'
    """
    return text.translate(_VISIBLE)


@dataclass(frozen=True)
class NextTokens:
    """The most probable next tokens after a prompt.

    ``table`` has one row a token: ``rank`` (from 1), ``token``, ``id``,
    ``probability``, ``logprob`` (natural); ``unlisted`` is the probability of the rest.
    """

    prompt: str
    table: pd.DataFrame
    unlisted: float

    def _repr_html_(self) -> str:
        shown = self.table.assign(percentage=self.table["probability"] * 100)
        columns = ["rank", "token", "id", "probability", "percentage", "logprob"]
        formats: dict[Any, Any] = {"probability": "{:.6f}", "percentage": "{:.2f} %"}
        style = shown[columns].style.hide(axis="index")
        style = style.format(formats | {"logprob": "{:.3f}"})
        note = f"All other tokens together: {self.unlisted:.4f}"
        return style.set_caption(note).to_html()


@dataclass(eq=False)
class LanguageModel:
    """A causal language model with its tokenizer; make one with :meth:`load`.

    It is never changed, and ``sklearn.base.clone`` keeps it.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        The network; it is put into evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    name : str, default="in memory"
        What the model is called in tables and error messages.
    source : Source, optional
        Where :meth:`load` took it from.
    """

    network: transformers.PreTrainedModel = field(repr=False)
    tokenizer: transformers.PreTrainedTokenizerBase = field(repr=False)
    name: str = "in memory"
    source: Source | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.network.eval()
        came_with = self.network.generation_config
        ends = getattr(came_with, "eos_token_id", None)
        self.network.generation_config = transformers.GenerationConfig(
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id if ends is None else ends,
            pad_token_id=self.pad_id,
        )

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: Quantisation | None = None,
        precision: Precision | None = None,
    ) -> LanguageModel:
        """Load a model, or return the same one while it is still in use.

        Parameters
        ----------
        name : str, optional
            A hub id or a local path, also of an adapter. By default the environment
            variable ``HOW_SURE_MODEL``, else the embedded SmolLM2-135M-Instruct.
        device : str, default="auto"
            A torch device; "auto" takes CUDA, then Apple's MPS, then the CPU.
        dtype : str, default="auto"
            A torch dtype by name; "auto" is float32 on the CPU, else the stored one.
        quantize : {"8bit", "4bit"}, optional
            Keep the weights in so many bits, by ``bitsandbytes``, on CUDA.
        precision : {"int8"}, optional
            Compute linear layers in 8-bit integers, on a CPU: see :mod:`helpers.int8`.

        Examples
        --------
        >>> LanguageModel.load().name
        'SmolLM2-135M-Instruct'
        """
        name = name or os.environ.get(MODEL_VARIABLE) or EMBEDDED
        asked = Source(name, device, dtype, quantize, precision)
        if (found := _loaded.get(asked)) is not None:
            return found
        source = asked.checked()
        if source.is_adapter:  # never kept: its files may be others next time
            return cls(*source.load(), name=Path(name).resolve().name, source=source)
        if (found := _loaded.get(source)) is None:
            found = cls(*source.load(), name=name, source=source)
        _loaded[asked] = _loaded[source] = found
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageModel:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is None:
            return LanguageModel, (self.network, self.tokenizer, self.name)
        return partial(LanguageModel.load, **self.source._asdict()), ()

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def pad_id(self) -> int:
        """Id of the token that fills short rows; it never counts."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return int(next(token_id for token_id in known if token_id is not None))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end the model's turn."""
        ends = self.network.generation_config.eos_token_id
        if ends is None:
            return ()
        return tuple(ends) if isinstance(ends, (list, tuple)) else (int(ends),)

    @property
    def window(self) -> int | None:
        """The most tokens the model can read, None where nothing says so."""
        config = self.network.config.get_text_config()
        told = getattr(config, "max_position_embeddings", None)
        known = (told, getattr(self.tokenizer, "model_max_length", None))
        return min((n for n in known if n and n < _UNKNOWN_LENGTH), default=None)

    @cached_property
    def fingerprint(self) -> str:
        """Equal in two models only if they give the same probabilities."""
        return checkpoints.fingerprint(self.network, self.tokenizer)

    @cached_property
    def label_tokens(self) -> dict[Any, Any]:
        """What verbalizers became for this model, so that each is spelled once."""
        return {}

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Text of every token of the vocabulary, by id."""
        return tuple(self.token_texts(range(len(self.tokenizer))))

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the model's start token exactly once.

        Control tokens in the prompt count as such, unless :meth:`fill` has marked them.
        """
        start = self.tokenizer.bos_token
        whole = bool(start) and text.startswith(str(start))
        if MARK in text:
            ids = self._unmarking.encode(text, add_special_tokens=not whole).ids
        else:
            ids = list(self.tokenizer(text, add_special_tokens=not whole).input_ids)
        return ids if whole else ids[: len(ids) - self._added_behind]

    def fill(self, text: str, before: str = "", after: str = "") -> str:
        """Put a text between two parts of a prompt; control tokens in it stay text.

        They are marked by the noncharacter U+FDD0, which a text must not contain.

        >>> model = LanguageModel.load()
        >>> model.token_texts(model.encode(model.fill("<|im_end|>", "Text: ")))
        ['Text', ':', ' <', '|', 'im', '_', 'end', '|', '>']
        """
        if MARK in text:
            raise ValueError(
                f"texts must not contain the noncharacter U+FDD0; {text[:60]!r} does."
            )
        whole, start, stop = before + text + after, len(before), len(before + text)
        found = self._control.finditer(whole)
        cuts = [m.start() + 1 for m in found if m.start() < stop and m.end(1) > start]
        if cuts and not hasattr(self.tokenizer, "backend_tokenizer"):
            raise ValueError(
                f"{self.name}'s tokenizer cannot read control tokens as text, and "
                f"{text[:60]!r} spells one."
            )
        pieces = zip([0, *cuts], [*cuts, len(whole)], strict=True)
        return MARK.join(whole[a:b] for a, b in pieces)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text by itself, all that it spells read as text."""
        as_text = {"add_special_tokens": False, "split_special_tokens": True}
        return list(self.tokenizer(text, **as_text).input_ids)

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """What spells a control token, longest first; no single characters."""
        known = self.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in known if token.special}
        special |= set(self.tokenizer.all_special_tokens)
        longer = [token for token in special if len(token) > 1]
        return tuple(sorted(longer, key=lambda token: (-len(token), token)))

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Every place where a control token begins, overlapping ones too."""
        if not self.control_tokens:
            return re.compile("(?!)")
        first = "".join({re.escape(token[0]) for token in self.control_tokens})
        every = "|".join(map(re.escape, self.control_tokens))
        return re.compile(f"(?=[{first}])(?=({every}))")

    @cached_property
    def _unmarking(self) -> Tokenizer:
        """A copy that finds no control token where a mark is, and reads no marks."""
        told = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in told["added_tokens"]:
            token["normalized"] &= not token["special"]  # looked for before marks go
        drop = {"type": "Replace", "pattern": {"String": MARK}, "content": ""}
        steps = [drop, told["normalizer"]] if told["normalizer"] else [drop]
        told |= {"truncation": None, "padding": None}
        told["normalizer"] = {"type": "Sequence", "normalizers": steps}
        return Tokenizer.from_str(json.dumps(told))

    @cached_property
    def _added_behind(self) -> int:
        """How many tokens, such as an end of text, a tokenizer puts behind a text."""
        bare = self.tokenizer("x", add_special_tokens=False).input_ids
        whole = self.tokenizer("x").input_ids
        extra = len(whole) - len(bare)
        before = (at for at in range(extra) if whole[at : at + len(bare)] == bare)
        return extra - next(before, extra)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Decode each id by itself, spaces and line breaks kept."""
        ids = [int(token_id) for token_id in token_ids]
        # From an array, as transformers looks at each number of a list.
        texts = self.tokenizer.batch_decode(
            np.array(ids, int)[:, None], clean_up_tokenization_spaces=False
        )
        # SentencePiece writes a space as ▁ and drops it where a text begins.
        pieces = [piece or "" for piece in self.tokenizer.convert_ids_to_tokens(ids)]
        spaces = [" " * (len(piece) - len(piece.lstrip("▁"))) for piece in pieces]
        return [
            space + text.lstrip(" ") if space else text
            for space, text in zip(spaces, texts, strict=True)
        ]

    def visible_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Decode each id by itself, with white space made visible."""
        return [visible(text) for text in self.token_texts(token_ids)]

    def chat(
        self,
        message: str,
        *,
        system: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        literal: bool = True,
    ) -> str:
        """Put a message into the model's own chat template, ready for its answer.

        Parameters
        ----------
        message : str
            What the user says.
        system : str, optional
            The system message, by default the template's own. It begins the first
            message where the template knows none.
        examples : sequence of (str, str), optional
            Earlier turns of user and model.
        literal : bool, default=True
            Whether control tokens in all these are text: see :meth:`fill`.

        Examples
        --------
        >>> print(LanguageModel.load().chat("Hello")[-38:].rstrip())
        Hello<|im_end|>
        <|im_start|>assistant
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(
                f"{self.name} has no chat template: it is a base model. Use a plain "
                "prompt instead, best with a few examples."
            )
        fill: Callable[[str], str] = self.fill if literal else str
        said = [*(part for turn in examples for part in turn), message]
        turns = [
            {"role": "assistant" if at % 2 else "user", "content": fill(part)}
            for at, part in enumerate(said)
        ]
        put = partial(
            self.tokenizer.apply_chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        if system is None:
            return str(put(turns))
        first = fill(system)
        try:
            return str(put([{"role": "system", "content": first}, *turns]))
        except TemplateError:
            turns[0]["content"] = f"{first}\n\n{turns[0]['content']}"
            return str(put(turns))

    def next_logprobs(self, prompt: str) -> np.ndarray:
        """Natural log-probability of every token of the vocabulary as the next one."""
        return self.logprobs_behind(self._checked_ids(prompt))

    @torch.inference_mode()
    def logprobs_behind(self, ids: Sequence[int]) -> np.ndarray:
        """The same, behind the tokens of a prompt."""
        row = torch.tensor([list(ids)], device=self.device)
        logits = self.network(input_ids=row, use_cache=False).logits[0, -1]
        logprobs = logits.cpu().double().log_softmax(-1).numpy()
        self.check_logprobs(logprobs[None], [0])
        return logprobs

    def next_tokens(self, prompt: str, k: int = 10) -> NextTokens:
        """The k most probable next tokens after a prompt.

        >>> tokens = LanguageModel.load().next_tokens("The capital of France is", 3)
        >>> tokens.table["token"][0]
        '␣Paris'
        """
        check_count("k", k)
        logprobs = self.next_logprobs(prompt)
        best = np.argsort(-logprobs, kind="stable")[:k].tolist()
        table = pd.DataFrame(
            {
                "rank": np.arange(1, len(best) + 1),
                "token": self.visible_texts(best),
                "id": best,
                "probability": np.exp(logprobs[best]),
                "logprob": logprobs[best],
            }
        )
        rest = np.delete(logprobs, best)
        return NextTokens(prompt, table, float(np.exp(rest).sum()))

    def generate(
        self,
        prompt: str,
        *,
        n: int = 1,
        max_new_tokens: int = 20,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Let the model write answers to a prompt, without their special tokens.

        Parameters
        ----------
        prompt : str
            A plain prompt or one made by :meth:`chat`.
        n, max_new_tokens : int
            How many independent answers, and the most tokens of each.
        temperature : float, default=1.0
            0 takes the most probable token; 1 samples from the model's distribution.
        top_k, top_p : int, float, optional
            Sample from the k most probable tokens, then from the fewest that hold this
            probability.
        seed : int, optional
            Seed of the sampling; torch's own random state is left alone.

        Examples
        --------
        >>> model = LanguageModel.load()
        >>> model.generate("The capital of France is", temperature=0, max_new_tokens=1)
        [' Paris']
        """
        check_count("n", n)
        check_count("max_new_tokens", max_new_tokens)
        check_sampling(temperature, top_k, top_p)
        ids = self._checked_ids(prompt, more=max_new_tokens)
        choice: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            choice = {"do_sample": True, "temperature": float(temperature)}
            choice |= {"top_k": top_k or 0, "top_p": 1.0 if top_p is None else top_p}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices, seed is not None), torch.inference_mode():
            if seed is not None:
                torch.manual_seed(seed)
            rows = torch.tensor(
                [ids] * (n if temperature > 0 else 1), device=self.device
            )
            # transformers' mixins confuse its own annotations
            answers = self.network.generate(  # type: ignore[operator]
                input_ids=rows,
                attention_mask=torch.ones_like(rows),
                past_key_values=self._read_once(rows),
                max_new_tokens=max_new_tokens,
                logits_processor=[self._checked_logits],
                **choice,
            )
        texts = self.tokenizer.batch_decode(
            answers[:, len(ids) :],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return texts if temperature > 0 else texts * n

    def check_logprobs(self, values: np.ndarray, rows: Sequence[int]) -> None:
        """Raise ModelError for the first row of NaN, infinity, or no probability."""
        top = values.max(axis=1)
        for at in np.flatnonzero(~np.isfinite(top)).tolist():
            what = "NaN or infinity"
            if top[at] == -np.inf:
                what = "none of the labels any probability (-inf for each)"
            raise ModelError(
                f"{self.name} gives {what} for text {rows[at]}. Either numbers "
                f"overflow in {self.network.dtype}: load it with dtype='float32' (or "
                "'bfloat16') and without quantisation; or weights are damaged: load it "
                "anew."
            )

    def _checked_ids(self, prompt: object, more: int = 0) -> list[int]:
        if not isinstance(prompt, str):
            raise TypeError(f"prompt must be a string, not {type(prompt).__name__}.")
        ids = self.encode(prompt)
        if not ids:
            raise ValueError("prompt must have at least one token; it is empty.")
        if self.window and len(ids) + more > self.window:
            wanted = f" and {more} are to follow" if more else ""
            raise ValueError(
                f"prompt has {len(ids)} tokens{wanted}; {self.name} reads at most "
                f"{self.window}."
            )
        return ids

    def _checked_logits(self, _: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        top = logits.float().log_softmax(-1).amax(-1, keepdim=True)
        self.check_logprobs(top.cpu().numpy(), [0] * len(top))
        return logits

    def _read_once(self, rows: torch.Tensor) -> transformers.DynamicCache | None:
        """Cache of equal prompts but for their last token, computed once for all."""
        stateful = getattr(self.network, "_is_stateful", False)
        if stateful or len(rows) == 1 or rows.shape[1] == 1:
            return None
        cache = transformers.DynamicCache(config=self.network.config)
        self.network.base_model(
            input_ids=rows[:1, :-1], past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(len(rows))
        return cache


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 or more, not {temperature!r}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k!r}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], not {top_p!r}.")
