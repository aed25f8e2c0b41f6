"""One call: train an adapter for a classifier, or load it where it was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock
from numpy.typing import ArrayLike

from ..classifier import LLMClassifier
from ..files import cache_dir
from .head import ConfidenceHead
from .losses import Loss
from .result import FineTuned, finetuned, load_finetuned, write_result
from .settings import TrainingSettings
from .store import Store
from .task import make_task
from .training import Trainer, trainable_copy


def finetune(
    classifier: LLMClassifier,
    X: Iterable[str],
    y: ArrayLike,
    *,
    validation: tuple[Iterable[str], ArrayLike],
    loss: Loss | None = None,
    settings: TrainingSettings | None = None,
    folder: str | Path | None = None,
    resume: bool = True,
    sample_targets: ArrayLike | None = None,
    head: ConfidenceHead | None = None,
    progress: bool = True,
    on_evaluation: Callable[[dict[str, float]], None] | None = None,
) -> FineTuned:
    """Train a low-rank adapter on what a classifier asks its model.

    The prompt, the examples and the label tokens are those of the classifier, so that
    the base and the tuned model are asked the same way. The base stays as it is; the
    tuned model shares its memory. From the held-out texts come the numbers by which
    the best weights are chosen, so texts of their own are needed to measure anything.

    Parameters
    ----------
    classifier : LLMClassifier
        How the model is asked. Its prior has no part in this.
    X : iterable of str
        Texts.
    y : array-like of str
        Their labels.
    validation : tuple of (iterable of str, array-like of str)
        Held-out texts and their labels; none may be among X.
    loss : Loss, optional
        What is minimised; without it, :class:`CrossEntropy`.
    settings : TrainingSettings, optional
        How; without it, the defaults.
    folder : str or pathlib.Path, optional
        Where to keep checkpoints and the result. Without it, a folder of the user's
        cache, named by a hash of all that the result depends on.
    resume : bool, default=True
        Whether to go on from a checkpoint, or just load the result, where the folder
        has one of this very training. Without it, it starts anew.
    sample_targets : array-like of shape (n_texts, n_labels), optional
        Distributions to learn instead of the bare labels, columns in the order of
        ``classes_``: see :func:`agreement_targets`.
    head : ConfidenceHead, optional
        A second output to train along.
    progress : bool, default=True
        Whether a training of more than a few seconds shows a bar.
    on_evaluation : callable, optional
        Called after each evaluation with its row of the history.

    Returns
    -------
    FineTuned

    Raises
    ------
    ValueError
        Data or settings break a rule, the folder holds something else, or the model
        has an adapter already.
    FloatingPointError
        The loss is no longer a number: the learning rate is too high.

    Notes
    -----
    On a processor, the same data, settings and library versions give the same
    weights, whether or not the training was interrupted. The adapter with the best
    held-out measure is the result, be it the untrained one of step 0.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> classifier = LLMClassifier(
    ...     labels=["positive", "negative"], prompt="Review: {text}\\nSentiment:"
    ... )
    >>> X, y = ["A joy.", "A bore."], ["positive", "negative"]
    >>> with TemporaryDirectory() as folder:
    ...     tuned = finetune(
    ...         classifier, X, y, validation=(["Fun!", "Dull."], y), folder=folder,
    ...         settings=TrainingSettings(epochs=1, layers=1),
    ...     )
    >>> tuned.history["step"].tolist(), tuned.n_trainable
    ([0, 1], 162816)
    """
    task = make_task(
        classifier,
        X,
        y,
        validation=validation,
        loss=loss,
        settings=settings,
        sample_targets=sample_targets,
        head=head,
    )
    if folder is None:
        folder = cache_dir() / "adapters" / task.digest[:16]
    place = Path(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    # Whoever asks for the same training at the same time waits for its result.
    with FileLock(place.with_name(place.name + ".lock")):
        store = Store(place, task.parts, resume=resume)
        if store.finished:
            return load_finetuned(place, classifier)
        model = trainable_copy(task)
        trainer = Trainer(
            task, model, store, progress=progress, on_evaluation=on_evaluation
        )
        trainer.run()
        history = write_result(task, trainer, store)
        return finetuned(classifier, model, history, place, trainer.head)
