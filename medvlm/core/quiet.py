"""Silences what libraries print and a user cannot act on. Their errors, and medvlm's own warnings, stay."""

from __future__ import annotations

import logging
import os
import sys
import warnings

LIBRARIES = (
    r"(accelerate|deepspeed|huggingface_hub|lightning|monai|onnxscript|open_clip|peft|timm|torch|torchvision"
    r"|transformers)(\.|$)"
)
"""Their modules, as a regular expression."""
LEVELS = {"TRANSFORMERS_VERBOSITY": "error", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Read by the libraries when they are imported."""


def silence_libraries() -> None:
    """Call before libraries are imported. What the user sets, in the environment or with -W, has precedence."""
    for name, level in LEVELS.items():
        os.environ.setdefault(name, level)
    # It asks for a package that would make some CPUs faster, whenever it is imported.
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    if not sys.stderr.isatty():  # a bar that is not overwritten fills a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if sys.warnoptions:
        return
    warnings.filterwarnings("ignore", module=LIBRARIES)
    warnings.filterwarnings("default", module=r"torch\.cuda(\.|$)")  # drivers and GPUs that do not fit
