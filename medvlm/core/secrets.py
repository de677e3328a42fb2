"""Detects passwords and access tokens, which must not be in recipes, logs or exported models, and reads those that are
in files."""

from __future__ import annotations

import re
from pathlib import Path
from stat import S_IROTH

from medvlm.core.errors import UserError

_TOKENS = (
    r"hf_[A-Za-z0-9]{20}|api_org_[A-Za-z0-9]{20}",  # Hugging Face
    r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{20}|[rs]k_(?:live|test)_[A-Za-z0-9]{16})",  # OpenAI, Anthropic, Stripe
    r"gh[pousr]_[A-Za-z0-9]{20}|github_pat_[A-Za-z0-9_]{20}",
    r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat)-[A-Za-z0-9_.-]{16}|GR1348941[A-Za-z0-9_-]{20}",  # GitLab
    r"(?<![A-Z0-9])(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|ANPA)[0-9A-Z]{16}(?![0-9A-Z])",  # AWS
    r"AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20}|GOCSPX-[0-9A-Za-z_-]{20}",  # Google
    r"xox[abeoprs]-[0-9A-Za-z-]{10}|xapp-\d-[0-9A-Za-z-]{10}|hooks\.slack\.com/services/T",
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # JSON web tokens
    r"wandb_v\d_[A-Za-z0-9_]{20}|local-[0-9a-f]{40}",
    # A wandb key is 40 hex digits, and so is the id of a commit: it counts only beside a word for a key.
    r"(?i:wandb|api[_-]?key|token|secret|password|passwd)\W{0,3}(?i:(?:api)?[_ -]?(?:key|token)?)[\"']?\s?[:=]"
    r"\s?[\"']?[0-9a-f]{32}",
    r"npm_[A-Za-z0-9]{30}|pypi-[A-Za-z0-9_-]{20}|dop_v1_[0-9a-f]{32}|SG\.[\w-]{16,}\.[\w-]{16}|nvapi-[A-Za-z0-9_-]{20}",
    r"r8_[A-Za-z0-9]{30}|gsk_[A-Za-z0-9]{30}|pat-[a-z]{2}\d-[0-9a-f-]{30}",
    r"dckr_pat_[A-Za-z0-9_-]{20}|hvs\.[A-Za-z0-9_-]{20}",
    r"AccountKey=[A-Za-z0-9+/=]{40}|[?&](?:sig|X-Amz-Signature|X-Goog-Signature)=[A-Za-z0-9%+/=]{16}",  # signed URLs
    r"(?i:authorization[\"']?\s?[:=]\s?[\"']?(?:bearer|basic|token)|bearer) [A-Za-z0-9._~+/=-]{20}",
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY",
    r"://[^/\s:@]*:[^/\s@]+@",
)
SECRET = re.compile("|".join(_TOKENS))
"""Matches access tokens, and URLs with a password."""


def read_secret(path: Path, what: str, shown: str, make: str, unsafe: int, error: type[UserError]) -> str:
    """The text of a file, stripped. shown: its name in messages. make: how to make one. unsafe: the bits of its mode
    that must not be set. Raises `error`, which never shows the text, if it cannot be read, or by others too."""
    try:
        mode, secret = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as reason:
        raise error(f"{shown}: this {what} file cannot be read ({type(reason).__name__}); {make}") from None
    if mode & unsafe:
        who = "everybody on this machine" if mode & S_IROTH else "the group of this file"
        raise error(f"{shown}: {who} may read this {what} file; run `chmod 600` on it")
    return secret
