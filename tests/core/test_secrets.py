"""Access tokens and paths of machines, whoever's they are, are recognised; what only looks like them is not."""

from __future__ import annotations

import pytest

from medvlm.core.secrets import SECRET
from medvlm.export.redact import ABSOLUTE, strip_paths

MIXED, HEX = "a1B2" * 10, "0a1b" * 10

TOKENS = [
    f"hf_{MIXED}",
    f"github_pat_{MIXED}",
    f"gho_{MIXED}",
    f"glpat-{MIXED[:20]}",
    f"gldt-{MIXED[:20]}",
    f"ASIA{'ABCD1234' * 2}",
    f"AKIA{'ABCD1234' * 2}",
    f"xoxb-1234567890-{MIXED}",
    f"xapp-1-{MIXED}",
    f"AIza{'a1B2C' * 7}",
    f"ya29.{MIXED}",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    f"WANDB_API_KEY={HEX}",
    f"wandb: {HEX}",
    f'api_key: "{HEX}"',
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
    f"sk-ant-api03-{MIXED}",
    f"sk-proj-{MIXED}",
    f"npm_{MIXED}",
    f"pypi-{MIXED}",
    f"Authorization: Bearer {MIXED}",
    f"https://x.blob.core.windows.net/a?sv=1&sig={MIXED}",
    "https://user:word@host/x",
    "redis://:word@host",
]
NO_TOKENS = [
    f"revision: {HEX}",
    f"commit {HEX}",
    "task-specific-model-name-of-long-words",
    f"disk-{'a' * 30}",
    "token: <image>",
    f"tokenizer: {HEX}",
    "https://huggingface.co/org/model@main",
]
PATHS = [
    "/home/anna/x",
    "/cluster/home/x",
    "/users/anna",
    "/storage/films",
    "see /net/x/y",
    "/groups/rad/x",
    "/projects/p1",
    "/Volumes/Anna",
    "/scratch2/anna",
    "/work/anna",
    r"D:\films\a.png",
    r'"D:\\films\\a.png"',
    r"D:\radiology\a",
    "D:/films/x.png",
    r"\\server\share\x",
    r'"\\\\server\\share"',
    "file:///etc/x",
]
NO_PATHS = [
    "https://huggingface.co/data/x",
    "https://x.org/home/anna",
    "and/or",
    "mg/dl",
    "docs/data/x",
    r'{"q": "Q:\n\nA:\n"}',
    r"Q:\nWhat is it",
    "s3://home/x",
]


@pytest.mark.parametrize("text", TOKENS)
def test_an_access_token_is_recognised(text):
    assert SECRET.search(f"x {text} y") and SECRET.search(text)


@pytest.mark.parametrize("text", NO_TOKENS)
def test_what_is_no_access_token_passes(text):
    assert not SECRET.search(text)


@pytest.mark.parametrize("text", PATHS)
def test_a_path_of_a_machine_is_recognised(text):
    assert ABSOLUTE.search(text)


@pytest.mark.parametrize("text", NO_PATHS)
def test_what_is_no_path_of_a_machine_passes(text):
    assert not ABSOLUTE.search(text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("read file:///home/anna/x.tar now", "read x.tar now"),
        ("see /cluster/anna/b.txt, please", "see b.txt, please"),
        (r"from D:\films\anna\a.png now", "from a.png now"),
        (r"at \\server\anna\a.png now", "at a.png now"),
        (r"\\server\anna\a.png", "a.png"),
        ("file://localhost/srv/x/y.tar", "y.tar"),
        ("D:/films/a.png", "a.png"),
    ],
)
def test_of_a_path_within_a_sentence_only_the_last_part_is_left(text, left):
    assert strip_paths(text) == left
