"""What several test files share."""

from __future__ import annotations

import gc
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from helpers.files import cache_dir

if TYPE_CHECKING:
    from helpers.models import LanguageModel

# jsonschema, below nbformat, would compile a grammar of addresses for four seconds.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parents[1]
USERS_CACHE = cache_dir()
settings.register_profile("quick", deadline=None, max_examples=30)
settings.load_profile("quick")
gc.disable()  # what is imported and collected stays to the end


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """The module book/build.py, which is a script and not part of a package."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests have their caches; pytest's own numbering reads all of them."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def own_scores(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, with the user's downloads linked into it."""
    folder = Path(tempfile.mkdtemp(dir=caches))
    for name in ("models", "data"):
        kept = USERS_CACHE / name
        kept.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(kept, target_is_directory=True)
    monkeypatch.setenv("HOW_SURE_CACHE", str(folder))
    monkeypatch.delenv("HOW_SURE_MODEL", raising=False)
    return folder


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    """The embedded model."""
    from helpers.models import LanguageModel

    return LanguageModel.load("SmolLM2-135M-Instruct", device="cpu")


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "{% if turn.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[{{ turn.role }}] {{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] \n{% endif %}"
)
TRAINED_ON = (
    "Review: a warm and funny film, not a dull one.\nSentiment: positive\n\n"
    "Review: no way, the plot is a bore.\nSentiment: negative\n\nyes no maybe\n"
)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """A byte-level BPE tokenizer, trained on a few words here and now."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    def make(template: str = "$A", chat_template: str | None = None) -> Any:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        core.train_from_iterator([TRAINED_ON], trainer)
        core.post_processor = TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token="<s>",
            eos_token="</s>",
            chat_template=chat_template,
        )

    return make


@pytest.fixture(scope="session")
def make_tiny(make_tokenizer: Callable[..., Any]) -> Callable[..., LanguageModel]:
    """A random network of any architecture of transformers, two small layers of it.

    The weights are large, so that what a token sees shows in every probability.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from helpers.models import LanguageModel

    def make(kind: str, tokenizer: Any = None, **settings: Any) -> LanguageModel:
        tokenizer = tokenizer or make_tokenizer()
        sizes: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        if kind in ("gpt2", "bloom"):
            sizes = {key: sizes[key] for key in sizes if key.endswith("_id")}
            sizes |= {"vocab_size": len(tokenizer), "n_layer": 2, "n_head": 4}
            sizes |= {"n_embd": 32, "n_positions": 256} if kind == "gpt2" else {}
            sizes |= {"hidden_size": 32} if kind == "bloom" else {}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = AutoConfig.for_model(kind, **(sizes | settings))
            network = AutoModelForCausalLM.from_config(config).float()
        with torch.no_grad():
            for weight in network.parameters():
                if weight.dim() > 1:
                    weight.mul_(6)
        return LanguageModel(network, tokenizer, name=f"tiny {kind}")

    return make


@pytest.fixture(scope="session")
def tiny_llama(
    make_tiny: Callable[..., LanguageModel], make_tokenizer: Callable[..., Any]
) -> LanguageModel:
    """Rotary positions; its tokenizer adds a start token, its template spells it."""
    return make_tiny("llama", make_tokenizer("<s> $A", CHAT_TEMPLATE))


@pytest.fixture(scope="session")
def tiny_gpt2(make_tiny: Callable[..., LanguageModel]) -> LanguageModel:
    """Absolute positions; a base model: no start token, no chat template."""
    return make_tiny("gpt2")


@pytest.fixture
def any_model(request: pytest.FixtureRequest) -> LanguageModel:
    """The model whose fixture a test's parameter names."""
    return request.getfixturevalue(request.param)
