"""The inference service: chat completions and embeddings, by whichever provider has the model."""

from app.services.inference.service import Inference as Inference
