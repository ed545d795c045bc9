"""Fixtures shared by the packages that need a model."""

from tests.tiny import tiny, tiny_folder, tiny_folders, windowed_folders
from tests.tiny_encoder_decoder import encoder_decoders

__all__ = ["encoder_decoders", "tiny", "tiny_folder", "tiny_folders", "windowed_folders"]
