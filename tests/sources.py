"""The rows that a section of the config describes, given as plain values."""

import make_dataset
import make_evaluation_set
from pipeline.config.datasets import Dataset, EvaluationSet


def conversations(name, source, world):
    """The rows of a dataset."""
    return make_dataset.conversations(name, Dataset.model_validate(source), world)[0]


def evaluation_rows(name, source, world):
    """The rows of an evaluation set."""
    return make_evaluation_set.evaluation_rows(name, EvaluationSet.model_validate(source), world)[0]
