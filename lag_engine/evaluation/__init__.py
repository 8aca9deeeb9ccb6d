"""What is claimed, measured: official scores, experiments that resume, and reports."""

from lag_engine.evaluation.answering import AdapterMaker, Settings
from lag_engine.evaluation.experiment import Experiment
from lag_engine.evaluation.kilt import DATA_SETS, DataSet, Metric
from lag_engine.evaluation.kilt_records import prediction, read_records, write_records
from lag_engine.evaluation.results import Results
from lag_engine.evaluation.retrieval import (
    BM25Retriever,
    DenseRetriever,
    HybridRetriever,
    Retriever,
)
from lag_engine.evaluation.suite import EvaluationDocument, EvaluationQuestion, Suite
from lag_engine.evaluation.systems import System, grid, obstacle

__all__ = [
    "DATA_SETS",
    "AdapterMaker",
    "BM25Retriever",
    "DataSet",
    "DenseRetriever",
    "EvaluationDocument",
    "EvaluationQuestion",
    "Experiment",
    "HybridRetriever",
    "Metric",
    "Results",
    "Retriever",
    "Settings",
    "Suite",
    "System",
    "grid",
    "obstacle",
    "prediction",
    "read_records",
    "write_records",
]
