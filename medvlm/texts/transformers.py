"""Text towers of transformers for dual encoders: BERT-like, CLIP-like and SigLIP."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.arguments import refuse_values
from medvlm.core.contracts import Loaded
from medvlm.core.errors import RecipeError, ShapeError
from medvlm.core.weights import describe, from_pretrained, open_tokenizer

LIBRARY = "transformers"
"""The library that the class of `tower` is from."""
MASK = "<mask>"
"""Stands for a hidden word in a tower from scratch. A token more than others have, so only where words are hidden."""


class Config(Loaded):
    kind: Literal["transformers"]
    model: str = ""
    """Hub id or local folder with weights and tokenizer."""
    config: dict[str, Any] = {}
    """Instead of `model`: the config of a tower that starts from scratch with the run's tokenizer, {model_type: bert,
    hidden_size: ...}."""
    vocabulary: int = Field(2048, gt=300)
    """Vocabulary size of the tokenizer that is trained if the recipe has no language model to share one with."""
    max_tokens: int = Field(256, gt=0)
    overlong: Literal["refuse", "cut"] = "refuse"
    """What happens to a longer text. `refuse`: its sample is quarantined. `cut`: only the first `max_tokens` are kept,
    the last of them being the end token; CLIP's towers of 77 tokens were trained this way."""

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if bool(self.model) == bool(self.config):
            raise ValueError("give either `model` (hub id or folder) or `config` (from scratch)")
        if self.config and "model_type" not in self.config:
            raise ValueError("config.model_type is missing, e.g. bert, clip_text_model, siglip_text_model")
        return self


def tokenizer(config: Config, run_tokenizer: Any, hides_words: bool = False) -> Any:
    """The tower's own tokenizer, or a copy of the run's that puts a start and an end token around every text, with a
    mask token if the stage hides words. Raises RecipeError if the run's has no such tokens."""
    from transformers import PreTrainedTokenizerFast

    if config.model:
        return open_tokenizer(config.model, "text.model")
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    raw = Tokenizer.from_str(run_tokenizer.backend_tokenizer.to_str())
    bos, eos = run_tokenizer.bos_token, run_tokenizer.eos_token
    if bos is None or eos is None:
        raise RecipeError(
            f"text.config: the tokenizer of the run has no {'start' if bos is None else 'end'} token, which every text"
            " needs; name a published tower with text.model, or copy the run again if its tokenizer is damaged"
        )
    raw.post_processor = TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, run_tokenizer.bos_token_id), (eos, run_tokenizer.eos_token_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=bos,
        eos_token=eos,
        pad_token=run_tokenizer.pad_token,
        **({"mask_token": run_tokenizer.mask_token or MASK} if hides_words else {}),
    )


def build(config: Config, tokenizer: Any) -> nn.Module:
    return Text(config, tokenizer)


def standalone(config: Config, built: Any) -> Config:
    """A config that builds the same without an id or a path."""
    return config.model_copy(update={"model": "", "config": describe(built.tower)}) if config.model else config


class Text(nn.Module):
    """ids_BT, mask_BT -> pooled [B, width]. Uses the tower's own pooler, like VisionTextDualEncoderModel. `read` gives
    the outputs of the tokens [B, T, word_width] too."""

    def __init__(self, config: Config, tokenizer: Any):
        super().__init__()
        from transformers import AutoConfig, AutoModel, SiglipTextModel

        self.pad_id: int = tokenizer.pad_token_id
        if config.model:
            tower = from_pretrained(AutoModel, config.model, config, "text")
            self.tower = getattr(tower, "text_model", tower)
        else:
            ids = {
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
            }
            # Copied, because transformers writes into nested settings.
            rest = {k: deepcopy(v) for k, v in config.config.items() if k != "model_type"}
            known = {"vocab_size": len(tokenizer), "max_position_embeddings": config.max_tokens, **ids, **rest}
            with refuse_values("text.config"):
                made = AutoConfig.for_model(config.config["model_type"], **known)
                # SiglipTextModel is the only text tower that AutoModel cannot build.
                self.tower = (
                    SiglipTextModel(made)
                    if made.model_type == "siglip_text_model"
                    else AutoModel.from_config(made, trust_remote_code=False)
                )
        known = self.tower.config
        self.is_siglip = known.model_type.startswith("siglip")
        self.width: int = known.projection_size if self.is_siglip else known.hidden_size
        self.word_width: int = known.hidden_size

    def forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        return self.read(ids_BT, mask_BT)[1]

    def read(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_siglip:
            # SigLIP pools at the last position and was trained on texts padded to the full length, without a mask
            # (arXiv 2303.15343; transformers' SiglipTextModel). A shorter input would give another embedding.
            known: Any = self.tower.config
            if ids_BT.shape[1] > known.max_position_embeddings:
                raise ShapeError(
                    f"text: {ids_BT.shape[1]} tokens, but this tower reads at most {known.max_position_embeddings}; set"
                    " text.max_tokens to that number"
                )
            padded_BT = torch.nn.functional.pad(
                ids_BT.masked_fill(mask_BT == 0, self.pad_id),
                (0, known.max_position_embeddings - ids_BT.shape[1]),
                value=self.pad_id,
            )
            found = self.tower(input_ids=padded_BT)
        else:
            # The tower looks whether a mask hides anything, which one without values cannot say.
            found = self.tower(input_ids=ids_BT, attention_mask=None if mask_BT.is_meta else mask_BT)
        return found.last_hidden_state[:, : ids_BT.shape[1]], found.pooler_output
