"""From a JSON answer and its tokens to a distribution over one field's values.

``tokens`` reads the answer, whatever protocol it came by; ``spans`` finds the bytes of
the field; ``values`` says which bytes lead to which value; ``field`` adds up.
"""

from .field import FieldDistribution, field_distribution
from .spans import JsonField, find_field
from .tokens import AnswerToken, read_tokens
from .values import ValueMatcher

__all__ = [
    "AnswerToken",
    "FieldDistribution",
    "JsonField",
    "ValueMatcher",
    "field_distribution",
    "find_field",
    "read_tokens",
]
