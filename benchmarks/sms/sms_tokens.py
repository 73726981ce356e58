"""SMS Spam Collection as word numbers: 5,171 different messages, a fifth of each class for the test.

Words are runs of letters and digits, or single other marks; digits become 0, as spam is in the form of a number and not
in its value. 0 is padding, 1 an unknown word; the vocabulary is of the training messages. The file is looked for in the
folder that EDGEDISTILL_DATA names, by default ../shared/data beside the repository.
"""

import gzip
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ("ham", "spam")
LENGTH = 48
LEAST_COUNT = 2
PADDING, UNKNOWN = 0, 1


def messages():
    """Return the messages, each text once, and their labels, split into train and test."""
    folder = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    with gzip.open(folder / "text" / "sms_spam.tsv.gz", "rt", encoding="utf-8", newline="\n") as file:
        pairs = [line.rstrip("\r\n").split("\t", 1) for line in file]
    label_of = {text: CLASSES.index(label) for label, text in reversed(pairs)}  # the first of duplicates counts
    texts, labels = list(label_of)[::-1], np.array(list(label_of.values())[::-1])
    return train_test_split(texts, labels, test_size=0.2, stratify=labels, random_state=0)


def words_of(text):
    return re.findall(r"[a-z0]+|[^\sa-z0]", re.sub(r"\d", "0", text.lower()))


def vocabulary_of(texts):
    counts = Counter(word for text in texts for word in words_of(text))
    known = sorted(word for word, count in counts.items() if count >= LEAST_COUNT)
    return {word: number for number, word in enumerate(known, UNKNOWN + 1)}


def encode(texts, vocabulary):
    tokens = np.full((len(texts), LENGTH), PADDING, np.int64)
    for row, text in enumerate(texts):
        numbers = [vocabulary.get(word, UNKNOWN) for word in words_of(text)[:LENGTH]]
        tokens[row, : len(numbers)] = numbers
    return tokens


def train():
    texts, _, labels, _ = messages()
    return encode(texts, vocabulary_of(texts)), labels, CLASSES


def test():
    known, texts, _, labels = messages()
    return encode(texts, vocabulary_of(known)), labels, CLASSES
