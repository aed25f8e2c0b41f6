"""What was decided about a table, and on what grounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from ..decisions import CertifiedThreshold, Policy
from ..metrics import CalibrationReport
from .candidates import Candidate
from .likeness import Likeness
from .prices import PolicyCost


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision:
    """What was decided about a table, and on what grounds.

    Parameters
    ----------
    name : str
        Of the file, for headings.
    text, label, group : str
        Names of columns; ``group`` may be None.
    risk, delta : float
        The largest share of wrong rows among the accepted, and the probability with
        which that may fail.
    seed : int
        Of everything that was left to chance.
    labels : pandas.Series
        Number of labelled rows of each label.
    counts : dict of str to int
        ``rows``, ``labelled``, ``unlabelled``, ``copies`` (labelled rows that repeat
        another one's text or group), ``set_apart`` (not drawn at random), ``shown``
        (in a prompt), ``chosen_on``, ``compared_on`` (those of them that judged all
        candidates), and ``certified_on`` (of copies and groups, one counts).
    candidates : pandas.DataFrame
        One row a candidate: ``accuracy``, ``brier``, ``auroc`` and ``coverage`` (share
        of rows accepted at this risk, expected) on the rows that it was chosen on, and
        ``seconds``.
    differences : pandas.DataFrame
        One row for each other candidate: its accuracy less that of the chosen one, as
        ``value``, ``low``, ``high``.
    chosen : str
        Which candidate.
    judged : pandas.DataFrame
        Rows that certified: ``text``, ``truth``, ``prediction``, ``confidence`` and
        ``p_<label>``.
    report : CalibrationReport
        Of these rows.
    certificate : CertifiedThreshold
        Of these rows, one of each group.
    by_label : pandas.DataFrame
        One row a predicted label: ``n``, ``accepted``, ``errors``, ``upper`` (a bound
        on the share of errors; all of them hold together).
    to_come : pandas.DataFrame or None
        Rows without a label: ``text``, ``prediction``, ``confidence``, ``action``,
        ``reason``.
    to_label : pandas.DataFrame
        Ten rows to label next: ``text``, ``prediction``, ``confidence``.
    versions : dict of str to str
        Of packages, and hashes of ``file`` and ``model``.
    policy : Policy or None
        What to do with new rows; None where nothing could be certified.
    notes : tuple of str
        Sentences on what was found in the table and what was left out.
    candidate : Candidate or None
        The chosen one, fitted; None where the confidences were given.
    likeness : Likeness
        What the rows certified on are like.
    cost : PolicyCost or None
        What the policy costs, where prices are known.
    """

    name: str
    text: str
    label: str
    group: str | None = None
    risk: float
    delta: float
    seed: int
    labels: pd.Series
    counts: dict[str, int]
    candidates: pd.DataFrame
    differences: pd.DataFrame
    chosen: str
    judged: pd.DataFrame = field(repr=False)
    report: CalibrationReport = field(repr=False)
    certificate: CertifiedThreshold
    by_label: pd.DataFrame
    to_come: pd.DataFrame | None = field(default=None, repr=False)
    to_label: pd.DataFrame = field(repr=False)
    versions: dict[str, str]
    policy: Policy | None = None
    notes: tuple[str, ...] = ()
    candidate: Candidate | None = field(default=None, repr=False)
    likeness: Likeness = field(repr=False)
    cost: PolicyCost | None = None
