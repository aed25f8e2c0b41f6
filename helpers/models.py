"""Load a causal language model and look at what it computes: the next token.

Without a name this is the embedded default, SmolLM2-135M-Instruct, which runs on any
laptop and needs nothing but a Python package index. Any model id of the hub, or the
path of a model on disk, works the same way.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import transformers
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import EMBEDDED, MODEL_VARIABLE
from .checkpoints import (
    ModelError,
    check_precision,
    check_quantisation,
    is_adapter,
    load_checkpoint,
    resolve_device,
)
from .prompts import MARK
from .verbalizer import visible

# Longer windows than any real one are how tokenizers say "not known".
_UNKNOWN_LENGTH = 10**9

Quantisation = Literal["8bit", "4bit"]
Precision = Literal["int8"]
Source = tuple[str, str, str, Quantisation | None, Precision | None]

_loaded: weakref.WeakValueDictionary[Source, LanguageModel] = (
    weakref.WeakValueDictionary()
)


@dataclass(frozen=True)
class NextTokens:
    """The most probable next tokens after a prompt, and what the list leaves out.

    Attributes
    ----------
    prompt : str
        The prompt.
    table : pandas.DataFrame
        One row a token, most probable first: ``rank`` (from 1), ``token`` (spaces and
        line breaks made visible), ``id``, ``probability``, ``logprob`` (natural).
    unlisted : float
        Probability of all tokens that are not in the table, in [0, 1].
    """

    prompt: str
    table: pd.DataFrame
    unlisted: float

    def _repr_html_(self) -> str:
        shown = self.table.assign(percentage=self.table["probability"] * 100)
        columns = ["rank", "token", "id", "probability", "percentage", "logprob"]
        style = shown[columns].style.hide(axis="index")
        style = style.format("{:.6f}", subset=["probability"])
        style = style.format("{:.2f} %", subset=["percentage"])
        style = style.format("{:.3f}", subset=["logprob"])
        note = f"All other tokens together: {self.unlisted:.4f}"
        return style.set_caption(note).to_html()


@dataclass(eq=False)
class LanguageModel:
    """A causal language model with its tokenizer.

    Make one with :meth:`load`; a network that is in memory already can be wrapped
    directly.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        The network, in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    name : str, default="in memory"
        What the model is called in tables and error messages.
    source : tuple, optional
        What :meth:`load` was given: name, device, dtype, quantisation
        and precision.

    Notes
    -----
    A copy (``copy.deepcopy``, scikit-learn's ``clone``) is the same object, since it
    is never changed. Sampling defaults that came with the model, which would bend
    probabilities without a word, are dropped.
    """

    network: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    name: str = "in memory"
    source: Source | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.network.eval()
        came_with = self.network.generation_config
        ends = getattr(came_with, "eos_token_id", None)
        self.network.generation_config = GenerationConfig(
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

        An adapter is read anew each time, since training may have written it anew.

        Parameters
        ----------
        name : str, optional
            A hub id (``"meta-llama/Llama-3.1-8B-Instruct"``) or a local path, be it
            of an adapter, which is put on the base that it names. Without one: what
            the environment variable ``HOW_SURE_MODEL`` names, else the embedded
            SmolLM2-135M-Instruct.
        device : str, default="auto"
            A torch device; "auto" takes CUDA, then Apple's MPS, then the CPU.
        dtype : str, default="auto"
            A torch dtype by name; "auto" takes float32 on the CPU and what the model
            was stored in elsewhere.
        quantize : {"8bit", "4bit"}, optional
            Keep the weights in so many bits, by the package ``bitsandbytes``, on CUDA.
        precision : {"int8"}, optional
            Let linear layers compute in 8-bit integers, on a processor: see
            :mod:`helpers.int8`. Probabilities change; measure on your own labels
            whether calibration and accuracy do. Where the processor computes in
            bfloat16, ``dtype="bfloat16"`` is about as quick, and more exact.

        Returns
        -------
        LanguageModel

        Raises
        ------
        ModelError
            The model is not there, needs a login, or does not fit in memory.
        ValueError
            ``device`` or ``dtype`` is not known to torch, or ``quantize`` or
            ``precision`` cannot be done here.

        Examples
        --------
        >>> model = LanguageModel.load()
        >>> model.name
        'SmolLM2-135M-Instruct'
        """
        name = name or os.environ.get(MODEL_VARIABLE) or EMBEDDED
        device = resolve_device(device)
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "auto"
        elif not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"dtype must be 'auto' or a torch dtype, not {dtype!r}.")
        check_quantisation(quantize, device)
        check_precision(precision, device, dtype)
        key = (name, device, dtype, quantize, precision)
        found = _loaded.get(key)
        if found is None or is_adapter(name):  # whose files may be others by now
            called = Path(name).resolve().name if is_adapter(name) else name
            found = cls(*load_checkpoint(*key), name=called, source=key)
            _loaded[key] = found
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageModel:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is not None:
            return _load_from, self.source
        return LanguageModel, (self.network, self.tokenizer, self.name)

    @property
    def device(self) -> torch.device:
        """The torch device the network is on."""
        return self.network.device

    @property
    def pad_id(self) -> int:
        """Id of the token that fills short rows; it never counts."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

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
        lengths = [getattr(config, "max_position_embeddings", None)]
        lengths.append(getattr(self.tokenizer, "model_max_length", None))
        known = [int(n) for n in lengths if n is not None and n < _UNKNOWN_LENGTH]
        return min(known, default=None)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the architecture, every weight, an adapter's, too, and the tokenizer.

        Two models with the same fingerprint give the same probabilities behind the
        same text, on whatever device. A fine-tuned or requantised one has another, be
        it in a single weight or its place.
        """
        config = self.network.config.to_dict()
        for volatile in ("_name_or_path", "transformers_version", "_commit_hash"):
            config.pop(volatile, None)
        digest = hashlib.sha256(repr(sorted(config.items(), key=str)).encode())
        digest.update(_tokenizer_rules(self.tokenizer).encode())
        weights = self.network.state_dict()
        with ThreadPoolExecutor() as pool:
            hashes = pool.map(_tensor_hash, weights.values())
            for (key, tensor), found in zip(weights.items(), hashes, strict=True):
                named = f"{key}{tuple(tensor.shape)}{tensor.dtype}{found}"
                digest.update(named.encode())
        for key, module in self.network.named_modules():
            scaling = getattr(module, "scaling", None)
            if isinstance(scaling, dict):  # how strongly an adapter counts
                state = (sorted(scaling.items()), list(module.active_adapters))
                off = bool(module.disable_adapters or module.merged)
                digest.update(repr((key, state, off)).encode())
        return digest.hexdigest()

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Text of every token of the vocabulary, by id."""
        return tuple(self.token_texts(range(len(self.tokenizer))))

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the model's start token exactly once.

        Parameters
        ----------
        text : str
            A plain prompt, or one made by :meth:`chat`, which has its start token.
            Control tokens that it spells are control tokens, but for those that
            :meth:`fill` has marked.

        Returns
        -------
        list of int
        """
        start = self.tokenizer.bos_token
        whole = bool(start) and text.startswith(str(start))
        if MARK in text:
            ids = self._unmarking.encode(text, add_special_tokens=not whole).ids
        else:
            ids = list(self.tokenizer(text, add_special_tokens=not whole).input_ids)
        return ids if whole else ids[: len(ids) - self._added_behind]

    def fill(self, text: str, before: str = "", after: str = "") -> str:
        """A text between two parts of a prompt, where all that it spells stays text.

        Parameters
        ----------
        text : str
            A text, a label, or anything else that is not a part of the question.
        before, after : str, default=""
            The parts of the prompt around it; control tokens in them stay such.

        Returns
        -------
        str
            For :meth:`encode`. The noncharacter U+FDD0 stands behind the first
            character of each control token that the text spells.

        Raises
        ------
        ValueError
            The text contains that noncharacter itself, or spells a control token that
            the tokenizer cannot read as text.

        Examples
        --------
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
        found = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return list(found.input_ids)

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """What spells a control token, longest first.

        One of a single character is left out: as text, it is the same.
        """
        known = self.tokenizer.added_tokens_decoder.values()
        special = {*self.tokenizer.all_special_tokens}
        special |= {token.content for token in known if token.special}
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
        """A tokenizer that finds no control token where a mark is and drops marks."""
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
        """How many tokens, such as an end of text, the tokenizer puts behind a text."""
        bare = self.tokenizer("x", add_special_tokens=False).input_ids
        whole = self.tokenizer("x").input_ids
        extra = len(whole) - len(bare)
        before = (at for at in range(extra) if whole[at : at + len(bare)] == bare)
        return extra - next(before, extra)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Decode each id by itself, spaces and line breaks kept.

        Parameters
        ----------
        token_ids : sequence of int
            Token ids.

        Returns
        -------
        list of str
        """
        ids = [int(token_id) for token_id in token_ids]
        texts = self.tokenizer.batch_decode(
            [[token_id] for token_id in ids], clean_up_tokenization_spaces=False
        )
        # SentencePiece writes a space as ▁ and drops it where a text begins.
        pieces = [piece or "" for piece in self.tokenizer.convert_ids_to_tokens(ids)]
        spaces = [" " * (len(piece) - len(piece.lstrip("▁"))) for piece in pieces]
        return [
            space + text.lstrip(" ") if space else text
            for space, text in zip(spaces, texts, strict=True)
        ]

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
            The system message; without one the template's own default applies. Where
            the template knows none, it begins the first message.
        examples : sequence of (str, str), optional
            Earlier turns: what the user said and what the model is to have answered.
        literal : bool, default=True
            Whether control tokens that all these spell are text: see :meth:`fill`.

        Returns
        -------
        str
            The prompt, the template's control tokens spelled out.

        Raises
        ------
        ValueError
            The tokenizer has no chat template.

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
        said = [part for turn in examples for part in turn] + [message]
        first = [] if system is None else [system]
        if literal:
            said, first = list(map(self.fill, said)), list(map(self.fill, first))
        turns = [
            {"role": "assistant" if at % 2 else "user", "content": part}
            for at, part in enumerate(said)
        ]
        try:
            return self._templated(
                [{"role": "system", "content": part} for part in first] + turns
            )
        except TemplateError:
            if not first:
                raise
            turns[0]["content"] = f"{first[0]}\n\n{turns[0]['content']}"
            return self._templated(turns)

    def _templated(self, turns: list[dict[str, str]]) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        )

    @torch.inference_mode()
    def next_logprobs(self, prompt: str) -> np.ndarray:
        """Log-probability of every token of the vocabulary as the next one.

        Parameters
        ----------
        prompt : str
            A plain prompt or one made by :meth:`chat`.

        Returns
        -------
        numpy.ndarray of shape (vocabulary,)
            Natural logarithms, from a float64 softmax at temperature 1.

        Raises
        ------
        ValueError
            The prompt has no tokens or more than the model's window.
        ModelError
            The network gives NaN or infinity.
        """
        ids = self._checked_ids(prompt)
        row = torch.tensor([ids], device=self.device)
        logits = self.network(input_ids=row, use_cache=False).logits[0, -1]
        logprobs = logits.cpu().double().log_softmax(-1).numpy()
        check_logprobs(self, logprobs[None], [0])
        return logprobs

    def next_tokens(self, prompt: str, k: int = 10) -> NextTokens:
        """The k most probable next tokens.

        Parameters
        ----------
        prompt : str
            A plain prompt or one made by :meth:`chat`.
        k : int, default=10
            How many to list, at least 1.

        Returns
        -------
        NextTokens

        Examples
        --------
        >>> tokens = LanguageModel.load().next_tokens("The capital of France is", 3)
        >>> tokens.table["token"][0]
        '␣Paris'
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k!r}.")
        logprobs = self.next_logprobs(prompt)
        best = np.argsort(-logprobs, kind="stable")[:k].tolist()
        table = pd.DataFrame(
            {
                "rank": np.arange(1, len(best) + 1),
                "token": [visible(text) for text in self.token_texts(best)],
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
        """Let the model write.

        Parameters
        ----------
        prompt : str
            A plain prompt or one made by :meth:`chat`.
        n : int, default=1
            How many independent answers.
        max_new_tokens : int, default=20
            The most tokens an answer may have.
        temperature : float, default=1.0
            0 takes the most probable token each time; 1 samples from the model's own
            distribution; more flattens it.
        top_k : int, optional
            Sample from the k most probable tokens only.
        top_p : float, optional
            Sample from the smallest set of tokens that holds this probability.
        seed : int, optional
            Same seed, same answers. Torch's own random state is left as it was.

        Returns
        -------
        list of str
            The answers, without the prompt and without special tokens.

        Examples
        --------
        >>> LanguageModel.load().generate(
        ...     "The capital of France is", temperature=0, max_new_tokens=1)
        [' Paris']
        """
        for label, value in (("n", n), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise ValueError(f"{label} must be at least 1, not {value!r}.")
        _check_sampling(temperature, top_k, top_p)
        ids = self._checked_ids(prompt, more=max_new_tokens)
        choice: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            choice = {"do_sample": True, "temperature": float(temperature)}
            choice |= {"top_k": top_k or 0, "top_p": 1.0 if top_p is None else top_p}
        with _seeded(seed, self.device), torch.inference_mode():
            rows = torch.tensor([ids] * (n if temperature > 0 else 1))
            rows = rows.to(self.device)
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

    def _checked_ids(self, prompt: object, more: int = 0) -> list[int]:
        """Token ids of a prompt that has some and leaves room for ``more``."""
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
        check_logprobs(self, top.cpu().numpy(), [0] * len(top))
        return logits

    def _read_once(self, rows: torch.Tensor) -> DynamicCache | None:
        """Cache of equal prompts but for their last token, computed once for all."""
        stateful = getattr(self.network, "_is_stateful", False)
        if stateful or len(rows) == 1 or rows.shape[1] == 1:
            return None
        cache = DynamicCache(config=self.network.config)
        self.network.base_model(
            input_ids=rows[:1, :-1], past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(len(rows))
        return cache


def check_logprobs(
    model: LanguageModel, values: np.ndarray, rows: Sequence[int]
) -> None:
    """Raise ModelError for the first of these rows whose numbers are no probabilities.

    Where a logit is NaN or infinite, all that comes of it is. A label may have no
    probability at all (-inf), but not every one.
    """
    top = values.max(axis=1)
    for at in np.flatnonzero(~np.isfinite(top)).tolist():
        what = "NaN or infinity"
        if top[at] == -np.inf:
            what = "none of the labels any probability (-inf for each)"
        raise ModelError(
            f"{model.name} gives {what} for text {rows[at]}. Either numbers overflow "
            f"in {model.network.dtype}: load it with dtype='float32' (or 'bfloat16') "
            "and without quantisation; or weights are damaged: load it anew."
        )


def sampling_probabilities(
    logprobs: np.ndarray,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """What sampling makes of a distribution: the probability to draw each token.

    Parameters
    ----------
    logprobs : numpy.ndarray of shape (vocabulary,)
        What :meth:`LanguageModel.next_logprobs` gives.
    temperature : float, default=1.0
        Above 0: log-probabilities are divided by it. 0: all goes to the best token.
    top_k : int, optional
        Keep the k most probable tokens.
    top_p : float, optional
        Then keep the smallest set of tokens that holds this probability.

    Returns
    -------
    numpy.ndarray of shape (vocabulary,)
        It sums to one.

    Notes
    -----
    The steps, and their order, are those of ``transformers``.

    Examples
    --------
    >>> sampling_probabilities(np.log([0.6, 0.3, 0.1]), top_k=2).round(3)
    array([0.667, 0.333, 0.   ])
    """
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return (np.arange(len(logprobs)) == np.argmax(logprobs)).astype(float)
    scores = torch.tensor(np.asarray(logprobs, dtype=float))[None]
    steps: list[Any] = [transformers.TemperatureLogitsWarper(float(temperature))]
    if top_k is not None:
        steps.append(transformers.TopKLogitsWarper(top_k))
    if top_p is not None:
        steps.append(transformers.TopPLogitsWarper(top_p))
    for step in steps:
        scores = step(torch.empty((1, 0), dtype=torch.long), scores)
    return scores.softmax(-1)[0].numpy()


def _tensor_hash(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _tokenizer_rules(tokenizer: Any) -> str:
    """All that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        return repr((type(tokenizer), sorted(tokenizer.get_vocab().items())))
    rules = json.loads(backend.to_str())
    for passing in ("truncation", "padding"):  # as the last call had it
        rules.pop(passing, None)
    return json.dumps(rules)


def _load_from(
    name: str,
    device: str,
    dtype: str,
    quantize: Quantisation | None,
    precision: Precision | None,
) -> LanguageModel:
    return LanguageModel.load(
        name, device=device, dtype=dtype, quantize=quantize, precision=precision
    )


def _check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 or more, not {temperature!r}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k!r}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], not {top_p!r}.")


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch for a block and put its random state back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
