"""Export for Paddle Inference, verified against the live network, and prediction from it."""

from .export import ExportError, export_inference_model
from .predictor import InferencePredictor

__all__ = ["ExportError", "InferencePredictor", "export_inference_model"]
