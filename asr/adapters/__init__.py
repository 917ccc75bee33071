"""Foreign checkpoints of Whisper, one module a family: OpenAI's, Hugging Face's, CTranslate2's (faster-whisper)."""

from .ctranslate2 import is_model_bin, load_ctranslate2
from .hugging_face import is_hugging_face, load_hugging_face, load_hugging_face_folder
from .openai import is_openai, load_openai

__all__ = [
    "is_hugging_face",
    "is_model_bin",
    "is_openai",
    "load_ctranslate2",
    "load_hugging_face",
    "load_hugging_face_folder",
    "load_openai",
]
