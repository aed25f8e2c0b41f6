"""The book's data: film reviews, injuries, and texts to train on.

``reviews`` are 12,752 snippets of film reviews labelled *fresh* or *rotten* by their
critics (Pang and Lee, 2005), here *positive* and *negative*; ``neiss`` are cases of
injury with the part of the body; ``texts`` were written for the book.
"""

from .neiss import load_neiss
from .neiss_files import body_parts
from .neiss_predictions import (
    NEISS_CLASSIFIERS,
    NEISS_EXAMPLES,
    NEISS_PROMPT,
    NEISS_REPORT_EXAMPLES,
    NEISS_RULES,
    load_neiss_predictions,
    load_neiss_probe,
    load_neiss_prompts,
    load_neiss_reports,
    measure_neiss,
    neiss_classifier,
    neiss_log_proba,
)
from .recorded import (
    RECORDED_DOORS,
    RECORDED_SERVERS,
    AnsweringServer,
    answering_servers,
)
from .reviews import (
    N_SIGNALS,
    REPORT_EXAMPLES,
    REPORT_QUESTION,
    REVIEW_EXAMPLES,
    REVIEW_LABELS,
    REVIEW_PROMPT,
    SPLITS,
    TRUTH_EXAMPLES,
    TRUTH_QUESTION,
    load_review_scores,
    load_review_signals,
    load_reviews,
    measure_review_signals,
)
from .texts import (
    FOOD_QUESTIONS,
    FoodQuestion,
    load_evidence,
    load_foods,
    load_published_tables,
    load_sentiment,
    load_sentiment_checks,
)

__all__ = [
    "FOOD_QUESTIONS",
    "NEISS_CLASSIFIERS",
    "NEISS_EXAMPLES",
    "NEISS_PROMPT",
    "NEISS_REPORT_EXAMPLES",
    "NEISS_RULES",
    "N_SIGNALS",
    "RECORDED_DOORS",
    "RECORDED_SERVERS",
    "REPORT_EXAMPLES",
    "REPORT_QUESTION",
    "REVIEW_EXAMPLES",
    "REVIEW_LABELS",
    "REVIEW_PROMPT",
    "SPLITS",
    "TRUTH_EXAMPLES",
    "TRUTH_QUESTION",
    "AnsweringServer",
    "FoodQuestion",
    "answering_servers",
    "body_parts",
    "load_evidence",
    "load_foods",
    "load_neiss",
    "load_neiss_predictions",
    "load_neiss_probe",
    "load_neiss_prompts",
    "load_neiss_reports",
    "load_published_tables",
    "load_review_scores",
    "load_review_signals",
    "load_reviews",
    "load_sentiment",
    "load_sentiment_checks",
    "measure_neiss",
    "measure_review_signals",
    "neiss_classifier",
    "neiss_log_proba",
]
