"""flanlab: instruction-tune language models on task clusters, and measure them zero-shot on clusters they never saw."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("flanlab")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+source"
