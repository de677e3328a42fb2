"""What a password or an access token looks like: none may stand in a recipe, a log or an exported model."""

from __future__ import annotations

import re

SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20}|sk-[A-Za-z0-9_-]{20}|gh[pousr]_[A-Za-z0-9]{20}|AKIA[0-9A-Z]{16}|://[^/\s:@]+:[^/\s@]+@"
)
"""What access tokens look like."""
