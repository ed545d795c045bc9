"""Fixtures shared by the packages that need a model."""

from tests.tiny import tiny_folder, tiny_folders

__all__ = ["tiny_folder", "tiny_folders"]
