"""Twenty sampled answers a review, beside a loop of ``generate``; by ``make bench``."""

from __future__ import annotations

from cases import seconds

from helpers.classifier import LLMClassifier
from helpers.datasets import REVIEW_EXAMPLES, REVIEW_LABELS, REVIEW_PROMPT, load_reviews
from helpers.models import LanguageModel
from helpers.sampling import sample_votes

N_TEXTS, N_ANSWERS = 100, 20


def test_one_pass_a_text_beats_a_loop_of_generate() -> None:
    model = LanguageModel.load("SmolLM2-135M-Instruct", device="cpu")
    classifier = LLMClassifier(model, REVIEW_LABELS, REVIEW_PROMPT, REVIEW_EXAMPLES)
    texts = load_reviews("test", n=N_TEXTS)["text"]
    sample_votes(classifier, texts.head(2), n=2)  # warm up

    votes = []
    ours = seconds(lambda: votes.append(sample_votes(classifier, texts, n=N_ANSWERS)))

    def generate() -> None:
        # The loop reads each prompt once for its twenty answers, too.
        for at, text in enumerate(texts):
            asked = classifier.render(text)
            model.generate(asked, n=N_ANSWERS, max_new_tokens=2, seed=at)

    loop = seconds(generate)
    print(f"\n{N_TEXTS} reviews, {N_ANSWERS} answers each")
    print(f"  this package      {ours:6.1f} s")
    print(f"  generate, a loop  {loop:6.1f} s  {loop / ours:5.1f} times")
    assert (votes[0].sum(axis=1) == N_ANSWERS).all()
    assert loop / ours >= 5
