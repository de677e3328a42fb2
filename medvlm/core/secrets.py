"""Detects passwords and access tokens, which must not be in recipes, logs or exported models."""

from __future__ import annotations

import re

SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20}|sk-[A-Za-z0-9_-]{20}|gh[pousr]_[A-Za-z0-9]{20}|AKIA[0-9A-Z]{16}|://[^/\s:@]+:[^/\s@]+@"
)
"""Matches access tokens, and URLs with a password."""
