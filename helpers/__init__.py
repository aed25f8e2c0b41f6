"""Confidence from language-model classifiers that one can act on.

Each module is one stop on the road of the book: text, next-token distribution,
label probabilities, confidence signals, calibration, decision. Nothing happens on
import: import the module you need, for example ``from helpers.models import
LanguageModel``.
"""

__version__ = "0.1.0"
