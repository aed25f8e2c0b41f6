"""Ways to score labels with one model, each behind the same few methods.

All get the same token ids. Only lm-evaluation-harness wants texts and tokenizes them in
its measured time, since its interface knows nothing else.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from cases import N_TEXTS, Prepared
from torch.nn.utils.rnn import pad_sequence

from helpers import EMBEDDED
from helpers.checkpoints import fetch_embedded, fetch_embedded_gguf
from helpers.int8 import has_int8, is_int8
from helpers.models import LanguageModel
from helpers.scoring import label_logprobs

# Rows of this engine: a name, and what LanguageModel.load is told. The first is what
# all others are compared with.
ENGINES: list[tuple[str, dict[str, Any]]] = [
    ("this engine, float32", {"device": "cpu"}),
    ("this engine, bfloat16", {"device": "cpu", "dtype": "bfloat16"}),
]
if has_int8():
    ENGINES.append(("this engine, int8", {"device": "cpu", "precision": "int8"}))
VLLM = "HOW_SURE_VLLM"  # environment variable: a Python that vLLM is installed for

Gives = Literal["every label", "first token"]


class Rival:
    """A way to score the prompts of a case."""

    name: str
    gives: Gives = "every label"
    float32 = True
    warm = True
    at_least = 1

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def prepare(self, case: Prepared) -> None:
        """Take a case."""
        self.case = case

    def fresh(self) -> None:
        """Drop what is remembered of single texts, if anything; not timed."""

    def score(self, rows: Sequence[int]) -> np.ndarray:
        """Log-probabilities after some prompts."""
        raise NotImplementedError


class Engine(Rival):
    """This package."""

    at_least = N_TEXTS

    def __init__(self, name: str, model: LanguageModel) -> None:
        super().__init__(model)
        self.name = name
        whole = model.network.dtype == torch.float32
        self.float32 = whole and not is_int8(model.network)

    def score(self, rows: Sequence[int]) -> np.ndarray:
        ids = [self.case.ids[row] for row in rows]
        return label_logprobs(self.model, ids, self.case.tokens, progress=False)


class GenerateLoop(Rival):
    """The loop of many blog posts: one call a text, one new token, its scores."""

    name = "generate, a loop"
    gives: Gives = "first token"

    def score(self, rows: Sequence[int]) -> np.ndarray:
        network: Any = self.model.network
        found = []
        for row in rows:
            ids = torch.tensor([self.case.ids[row]])
            answer = network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=1,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
            found.append(answer.scores[0][0].log_softmax(-1)[list(self.case.firsts)])
        return torch.stack(found).numpy()


class Batches(Rival):
    """transformers with batches of like length, padded; nothing kept of a prefix."""

    name = "transformers, batches of 8"
    gives: Gives = "first token"
    at_least = 8

    @torch.inference_mode()
    def score(self, rows: Sequence[int]) -> np.ndarray:
        order = sorted(range(len(rows)), key=lambda at: -len(self.case.ids[rows[at]]))
        found = np.empty((len(rows), len(self.case.firsts)))
        for start in range(0, len(order), 8):
            batch = order[start : start + 8]
            ids = [torch.tensor(self.case.ids[rows[at]]) for at in batch]
            padded = pad_sequence(ids, True, -1, "left")
            mask = (padded >= 0).long()
            logits = self.model.network(
                input_ids=padded.clamp(min=0),
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
            found[batch] = logits.log_softmax(-1)[:, list(self.case.firsts)]
        return found


class Harness(Rival):
    """lm-evaluation-harness: every label is a continuation to be scored by itself."""

    name = "lm-evaluation-harness"
    warm = False

    def __init__(self, model: LanguageModel) -> None:
        self.request = importlib.import_module("lm_eval.api.instance").Instance
        self.harness = importlib.import_module("lm_eval.models.huggingface").HFLM(
            pretrained=model.network,
            tokenizer=model.tokenizer,
            batch_size=8,
            device="cpu",
        )

    def score(self, rows: Sequence[int]) -> np.ndarray:
        case = self.case.case
        pairs = [
            (case.prompts[row], f" {label}") for row in rows for label in case.labels
        ]
        requests = [
            self.request("loglikelihood", {}, pair, at) for at, pair in enumerate(pairs)
        ]
        found = [score for score, _ in self.harness.loglikelihood(requests, True)]
        return np.reshape(found, (len(rows), len(case.labels)))


class LlamaCpp(Rival):
    """llama.cpp by the bindings of llama-cpp-python, one prompt at a time."""

    float32 = False
    POSITIONS = 512  # in one call

    def __init__(self, lib: Any, model: Any, threads: int) -> None:
        self.lib, self.model, self.threads = lib, model, threads
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self.context: Any = None

    def prepare(self, case: Prepared) -> None:
        super().prepare(case)
        self.close()
        settings = self.lib.llama_context_default_params()
        settings.n_ctx = 2048
        settings.n_batch = settings.n_ubatch = self.POSITIONS
        settings.n_seq_max = len(self.sequences())
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = self.threads
        self.context = self.lib.llama_init_from_model(self.model, settings)
        self.batch = self.lib.llama_batch_init(self.POSITIONS, 0, len(self.sequences()))
        self.memory = self.lib.llama_get_memory(self.context)
        self.cached: list[int] = []

    def close(self) -> None:
        """Free what :meth:`prepare` made."""
        if self.context is not None:
            self.lib.llama_batch_free(self.batch)
            self.lib.llama_free(self.context)
            self.context = None

    def sequences(self) -> list[int]:
        """Which sequences of llama.cpp see the prompt."""
        return [0]

    def read(
        self, nodes: Sequence[tuple[int, int, Sequence[int], bool]]
    ) -> torch.Tensor:
        """Read tokens behind what is in the cache."""
        found = []
        for start in range(0, len(nodes), self.POSITIONS):
            part = nodes[start : start + self.POSITIONS]
            self.batch.n_tokens = len(part)
            for at, (token, position, sequences, wanted) in enumerate(part):
                self.batch.token[at], self.batch.pos[at] = token, position
                ids = (ctypes.c_int32 * len(sequences))(*sequences)
                ctypes.memmove(self.batch.seq_id[at], ids, ctypes.sizeof(ids))
                self.batch.n_seq_id[at], self.batch.logits[at] = len(sequences), wanted
            if self.lib.llama_decode(self.context, self.batch):
                raise RuntimeError("llama.cpp could not read a batch.")
            for at, (*_, wanted) in enumerate(part):
                if wanted:
                    pointer = self.lib.llama_get_logits_ith(self.context, at)
                    logits = np.ctypeslib.as_array(pointer, (self.vocabulary,))
                    found.append(torch.from_numpy(logits.copy()))
        return torch.stack(found).log_softmax(-1)

    def forget(self, position: int) -> None:
        """Drop everything from a position on."""
        for sequence in self.sequences():
            self.lib.llama_memory_seq_rm(self.memory, sequence, position, -1)

    def prompt(self, row: int) -> list[tuple[int, int, Sequence[int], bool]]:
        """What has to be read of a prompt after the prompt before."""
        ids, everywhere = self.case.ids[row], self.sequences()
        pairs = zip(ids[:-1], self.cached, strict=False)
        differ = (at for at, (one, other) in enumerate(pairs) if one != other)
        start = next(differ, min(len(ids) - 1, len(self.cached)))
        self.forget(start)
        self.cached = ids
        last = len(ids) - 1
        return [(ids[at], at, everywhere, at == last) for at in range(start, len(ids))]

    def fresh(self) -> None:
        # Else a run on the text that was read last would find all of it in the cache.
        self.one(N_TEXTS)

    def score(self, rows: Sequence[int]) -> np.ndarray:
        return np.stack([self.one(row) for row in rows])

    def one(self, row: int) -> np.ndarray:
        """Log-probabilities after one prompt."""
        raise NotImplementedError


class LlamaFirst(LlamaCpp):
    """The distribution behind the prompt, nothing more."""

    name = "llama.cpp, first token"
    gives: Gives = "first token"

    def one(self, row: int) -> np.ndarray:
        return self.read(self.prompt(row))[0, list(self.case.firsts)].numpy()


class LlamaTree(LlamaCpp):
    """All labels in one call with the prompt: a sequence for each end of the trie."""

    name = "llama.cpp, labels as a tree"

    def prepare(self, case: Prepared) -> None:
        trie = case.tokens.trie
        self.inner = sorted(set(trie.parents[1:]) - {0})
        ends = [n for n in self.inner if n not in {trie.parents[m] for m in self.inner}]
        self.lines: dict[int, list[int]] = {node: [] for node in self.inner}
        for line, node in enumerate(ends):
            while node:
                self.lines[node].append(line)
                node = trie.parents[node]
        self.n_lines = max(1, len(ends))
        super().prepare(case)

    def sequences(self) -> list[int]:
        return list(range(self.n_lines))

    def one(self, row: int) -> np.ndarray:
        trie, end = self.case.tokens.trie, len(self.case.ids[row])
        nodes = self.prompt(row)
        nodes += [
            (trie.tokens[node], end + trie.depths[node] - 1, self.lines[node], True)
            for node in self.inner
        ]
        found = self.read(nodes)
        self.forget(end)
        place = {node: at for at, node in enumerate([0, *self.inner])}
        edges = range(1, len(trie.tokens))
        steps = found[
            [place[trie.parents[node]] for node in edges],
            [trie.tokens[node] for node in edges],
        ].tolist()
        totals = [0.0]
        for node in edges:
            totals.append(totals[trie.parents[node]] + steps[node - 1])
        return np.array([totals[leaf] for leaf in trie.leaves])


class Vllm(Rival):
    """vLLM in an environment of its own, by the script ``vllm_rows.py``."""

    def __init__(self, gives: Gives, process: subprocess.Popen[str]) -> None:
        self.gives, self.process = gives, process
        self.way = "first" if gives == "first token" else "tree"
        told = "first token" if gives == "first token" else "labels as a tree"
        self.name, self.at_least = f"vLLM, {told}", {"first": 32, "tree": 4}[self.way]

    def prepare(self, case: Prepared) -> None:
        super().prepare(case)
        sequences = [list(sequence) for sequence in case.tokens.sequences]
        ask(self.process, do="prepare", prompts=case.ids, sequences=sequences)

    def fresh(self) -> None:
        ask(self.process, do="fresh")

    def score(self, rows: Sequence[int]) -> np.ndarray:
        return np.array(ask(self.process, do=self.way, rows=list(rows)))


def ask(process: subprocess.Popen[str], **request: Any) -> Any:
    """Send a request to ``vllm_rows.py`` and wait for the answer."""
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError("vLLM has stopped; what it said stands above.")
    return json.loads(answer)


def vllm_environment(threads: int) -> dict[str, str]:
    """The variables of a process that runs vLLM on processors."""
    own = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_TARGET_DEVICE": "cpu",
    }
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return kept | own


@contextmanager
def vllm(python: str, threads: int) -> Iterator[subprocess.Popen[str]]:
    """vLLM with the embedded model, until the block ends."""
    script = Path(__file__).with_name("vllm_rows.py")
    with subprocess.Popen(
        [python, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=vllm_environment(threads),
    ) as process:
        try:
            ask(process, do="load", model=str(fetch_embedded()), threads=threads)
            yield process
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def all_rivals() -> Iterator[tuple[list[Rival], list[str]]]:
    """Every way that is installed here, until the block ends."""
    threads = torch.get_num_threads()
    notes: list[str] = []
    rivals: list[Rival] = [
        Engine(name, LanguageModel.load(EMBEDDED, **settings))
        for name, settings in ENGINES
    ]
    assert isinstance(rivals[0], Engine)
    model = rivals[0].model
    rivals += [GenerateLoop(model), Batches(model)]
    if importlib.util.find_spec("lm_eval"):
        rivals.append(Harness(model))
    else:
        notes.append("lm-evaluation-harness: not installed (make bench does it).")
    llama: list[LlamaCpp] = []
    weights: Any = None
    if importlib.util.find_spec("llama_cpp"):
        lib = importlib.import_module("llama_cpp")
        importlib.import_module("llama_cpp._logger").set_verbose(False)
        path = str(fetch_embedded_gguf()).encode()
        weights = lib.llama_model_load_from_file(path, lib.llama_model_default_params())
        llama = [way(lib, weights, threads) for way in (LlamaFirst, LlamaTree)]
        rivals += llama
        notes.append(
            "llama.cpp: weights of four bits (Q4_1), activations of eight. Built for: "
            + lib.llama_print_system_info().decode()
        )
    else:
        notes.append("llama.cpp: not installed (make bench does it).")
    try:
        python = os.environ.get(VLLM)
        if not python:
            notes.append(f"vLLM: not installed ({VLLM} names no Python).")
            yield rivals, notes
            return
        with vllm(python, threads) as process:
            rivals += [Vllm("first token", process), Vllm("every label", process)]
            yield rivals, notes
    finally:
        for way in llama:
            way.close()
        if weights is not None:
            lib.llama_model_free(weights)
