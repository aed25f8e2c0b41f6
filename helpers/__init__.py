"""Confidence from language-model classifiers that one can act on.

Each module is one stop on the road of the book: text, next-token distribution,
label probabilities, confidence signals, calibration, decision. Nothing happens on
import: import the module you need, for example ``from helpers.models import
LanguageModel``.
"""

__version__ = "0.1.0"
# The default model, and the environment variable that names another for the whole book.
EMBEDDED = "SmolLM2-135M-Instruct"
MODEL_VARIABLE = "HOW_SURE_MODEL"
