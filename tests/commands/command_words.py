"""The commands that take a config, and words for the smallest search."""

from __future__ import annotations

from ssfnas import config, derive, evaluate, export, predict, report, retrain, search

MAINS = {
    "search": search.main,
    "derive": derive.main,
    "retrain": retrain.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "export": export.main,
    "report": report.main,
}
CONFIGS = {
    "search": config.SearchConfig,
    "derive": config.DeriveConfig,
    "retrain": config.RetrainConfig,
    "evaluate": config.EvaluateConfig,
    "predict": config.PredictConfig,
    "export": config.ExportConfig,
    "report": config.ReportConfig,
}
SMALL = [
    "--channels", "2", "--layers", "3", "--nodes", "2", "--projector", "8,8", "--batch-size", "8",
    "--steps", "1", "--device", "cpu",
]  # fmt: skip
