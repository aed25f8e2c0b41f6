"""From a JSON answer and its tokens to a distribution over one field's values.

``spans`` finds the bytes of the field; ``values`` says which bytes lead to which
value; ``field`` adds up.
"""

from .field import FieldDistribution, field_distribution

__all__ = ["FieldDistribution", "field_distribution"]
