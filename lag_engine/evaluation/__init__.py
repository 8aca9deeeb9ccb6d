"""What is claimed, measured: official scores, experiments that resume, and reports."""

from lag_engine.evaluation.answering import AdapterMaker, Settings
from lag_engine.evaluation.borrowed import BorrowedAdapters
from lag_engine.evaluation.experiment import Experiment
from lag_engine.evaluation.kilt import DATA_SETS, DataSet, Metric, evaluate
from lag_engine.evaluation.kilt_records import prediction, read_records, write_records
from lag_engine.evaluation.report import write_predictions, write_report
from lag_engine.evaluation.results import Results
from lag_engine.evaluation.retrieval import (
    BM25Retriever,
    DenseRetriever,
    HybridRetriever,
    Retriever,
)
from lag_engine.evaluation.suite import EvaluationDocument, EvaluationQuestion, Suite
from lag_engine.evaluation.systems import System, grid, obstacle, one_at_a_time
from lag_engine.evaluation.verdict import Verdict, find_best

__all__ = [
    "DATA_SETS",
    "AdapterMaker",
    "BM25Retriever",
    "BorrowedAdapters",
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
    "Verdict",
    "evaluate",
    "find_best",
    "grid",
    "obstacle",
    "one_at_a_time",
    "prediction",
    "read_records",
    "write_predictions",
    "write_records",
    "write_report",
]
