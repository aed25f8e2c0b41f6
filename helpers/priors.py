"""A model's leaning towards a label, estimated without labelled texts.

Dividing label probabilities by the probabilities that the model gives the labels
whatever the text takes the leaning out. What "whatever the text" means is the choice:
texts without content, random words of the domain, or real texts on average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONTENT_FREE = ("N/A", "[MASK]", "")
_DRAWS = 20


def random_words(texts: Sequence[str], *, seed: int = 0) -> list[str]:
    """Twenty texts of random words of a domain, as long as its texts on average."""
    words = [text.split() for text in texts]
    pool = np.array([word for text in words for word in text])
    length = round(float(np.mean([len(text) for text in words])))
    rng = np.random.default_rng(seed)
    draws = rng.choice(pool, size=(_DRAWS, max(1, length)))
    return [" ".join(draw) for draw in draws]


def balancing_prior(probabilities: np.ndarray) -> np.ndarray:
    """The prior that, divided out, leaves all labels equally probable on average.

    Parameters
    ----------
    probabilities : numpy.ndarray of shape (n_texts, n_labels)
        Label probabilities; rows sum to one.

    Returns
    -------
    numpy.ndarray of shape (n_labels,)
        It sums to one.

    Notes
    -----
    The fixed point of w ← w · mean(p/w normalised) · n_labels. The plain mean of the
    probabilities, which batch calibration divides by, is its first step.

    Examples
    --------
    >>> import numpy as np
    >>> balancing_prior(np.array([[0.9, 0.1], [0.6, 0.4]])).round(3)
    array([0.786, 0.214])
    """
    prior = np.full(probabilities.shape[1], 1 / probabilities.shape[1])
    for _ in range(1000):
        weighed = probabilities / prior
        step = (weighed / weighed.sum(axis=1, keepdims=True)).mean(axis=0)
        prior = prior * step
        prior /= prior.sum()
        if np.allclose(step, 1 / len(step), rtol=0, atol=1e-10):
            break
    return prior
