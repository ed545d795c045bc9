"""Whether there is a model of a name: found out before anything is loaded, without torch."""

from __future__ import annotations

import difflib
import os

from flanlab.errors import FlanlabError, one_line
from flanlab.hub import offline_hint, work_offline_if_unreachable
from flanlab.models.built_in import BUILT_IN_MODELS
from flanlab.models.gguf import is_gguf


def check_model_name(name: str) -> None:
    """Refuse a name that no model has. Of a model on the Hub, only its configuration is looked up.

    Raises:
        FlanlabError: there is no such folder or file, the Hub has no such model, or it cannot be reached.
    """
    if name in BUILT_IN_MODELS or os.path.isdir(name):
        return
    if is_gguf(name):
        if os.path.isfile(name):
            return
        raise FlanlabError(f"There is no GGUF file at {name}.", hint="Check the path.")
    if names_a_folder(name):
        raise FlanlabError(f"There is no model folder at {name}.", hint=f"Check the path.{suggestion(name)}")
    offline = work_offline_if_unreachable(name)
    from huggingface_hub import hf_hub_download

    try:
        # Even offline the Hub's client would be set up first, which takes a second or more on a busy machine.
        hf_hub_download(name, "config.json", local_files_only=offline)
    except Exception as error:  # the Hub's client raises many kinds of errors
        unknown = bool(offline_hint(name))
        message = f"No model {name} was found." if unknown else f"There is no model {name} on the Hub: {one_line(error)}"
        raise FlanlabError(message, hint=model_hint(name)) from error


def names_a_folder(name: str) -> bool:
    """Whether a name can only be a folder, not a Hub id."""
    return name.startswith((".", "/")) or name.count("/") > 1


def model_hint(name: str) -> str:
    """What to do about a model that could not be loaded."""
    usual = (
        "Name a folder or Hub id of a causal or encoder-decoder language model with safetensors weights, or one of"
        " `flan models`."
    )
    return (offline_hint(name) or usual) + suggestion(name)


def suggestion(name: str) -> str:
    """A question that names a built-in model with a similar name; empty if there is none."""
    near = difflib.get_close_matches(name.rpartition("/")[2].lower(), BUILT_IN_MODELS, n=1)
    return f" Did you mean {near[0]}?" if near else ""
