"""Scores labels by vLLM, in the Python environment that vLLM is installed in.

``rivals.py`` starts this script there. It imports nothing but vLLM and what comes with
Python, reads one JSON object a line from its standard input and answers each with one
on its standard output: ``load`` takes the model, ``prepare`` prompts and label
sequences as token ids, ``fresh`` begins with an empty cache but for one prompt, and
``score`` gives log-probabilities.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any


class Scorer:
    """The model and the prompts of one case."""

    def __init__(self, model: str, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        from vllm import LLM, SamplingParams

        self.parameters = SamplingParams
        self.llm = LLM(
            model=model,
            dtype="float32",
            max_model_len=2048,
            enable_prefix_caching=True,
            block_size=32,  # what is kept of a prompt is a multiple of it
            enforce_eager=True,
            disable_log_stats=True,
        )

    def prepare(self, prompts: list[list[int]], sequences: list[list[int]]) -> None:
        """Take the token ids of prompts and of labels."""
        self.prompts, self.sequences = prompts, sequences
        # What may follow each beginning of a label, the prompt itself being ().
        self.next: dict[tuple[int, ...], list[int]] = {}
        for sequence in sequences:
            for at, token in enumerate(sequence):
                found = self.next.setdefault(tuple(sequence[:at]), [])
                if token not in found:
                    found.append(token)

    def fresh(self) -> None:
        """Forget all prompts, then read the last one, so that their prefix is warm."""
        self.llm.reset_prefix_cache()
        self.first([len(self.prompts) - 1])

    def first(self, rows: Sequence[int]) -> list[list[float]]:
        """Log-probability of the first tokens of the labels."""
        return self._following([(row, ()) for row in rows])

    def tree(self, rows: Sequence[int]) -> list[list[float]]:
        """Log-probability of every label, a request for each beginning of a label."""
        asked = [(row, path) for row in rows for path in self.next]
        found = {
            (row, path, token): value
            for (row, path), values in zip(asked, self._following(asked), strict=True)
            for token, value in zip(self.next[path], values, strict=True)
        }
        return [
            [
                sum(found[row, tuple(s[:at]), token] for at, token in enumerate(s))
                for s in self.sequences
            ]
            for row in rows
        ]

    def _following(
        self, asked: Sequence[tuple[int, tuple[int, ...]]]
    ) -> list[list[float]]:
        """Log-probabilities of what may follow beginnings of labels."""
        whole = [self.prompts[row] + list(path) for row, path in asked]
        settings = [
            self.parameters(
                max_tokens=1, temperature=0, logprob_token_ids=self.next[path]
            )
            for _, path in asked
        ]
        prompts = [{"prompt_token_ids": ids} for ids in whole]
        answers = self.llm.generate(prompts, settings, use_tqdm=False)
        return [
            [answer.outputs[0].logprobs[0][token].logprob for token in self.next[path]]
            for answer, (_, path) in zip(answers, asked, strict=True)
        ]


def main() -> None:
    """Answer requests until there are no more."""
    # Whatever vLLM prints goes to standard error, so that answers stay alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    scorer: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        answer = None
        if do == "load":
            scorer = Scorer(**request)
        else:
            answer = getattr(scorer, do)(**request)
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
