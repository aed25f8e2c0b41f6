"""From a JSON answer and its tokens to a distribution over one field's values."""

from .field import FieldDistribution, field_distribution

__all__ = ["FieldDistribution", "field_distribution"]
