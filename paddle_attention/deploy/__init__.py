"""Export for Paddle Inference, ONNX Runtime and OpenVINO, verified against the live network, and prediction from it."""

from .export import ExportError, export_inference_model
from .formats import FORMATS
from .predictor import PRECISIONS, PREDICTORS, EnginePredictor, InferencePredictor, open_predictor

__all__ = [
    "FORMATS",
    "PRECISIONS",
    "PREDICTORS",
    "EnginePredictor",
    "ExportError",
    "InferencePredictor",
    "export_inference_model",
    "open_predictor",
]
