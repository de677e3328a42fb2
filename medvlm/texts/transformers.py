"""Text towers of transformers for dual encoders: BERT-like and CLIP-like."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["transformers"]
    model: str = ""
    """Hub id or local folder with weights and tokenizer."""
    config: dict[str, Any] = {}
    """Without `model`: {model_type: bert, hidden_size: ...}, from scratch, with the run's tokenizer."""
    vocabulary: int = Field(2048, gt=300)
    """Size of the tokenizer that is trained for it when the recipe has no language model to share one with."""
    max_tokens: int = Field(256, gt=0)
    """A longer text is refused (its sample is quarantined), never cut."""

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if bool(self.model) == bool(self.config):
            raise ValueError("give either `model` (hub id or folder) or `config` (from scratch)")
        return self


def tokenizer(config: Config, run_tokenizer: Any) -> Any:
    """The tower's own tokenizer, or the run's with start and end tokens put around every text."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if config.model:
        return AutoTokenizer.from_pretrained(config.model)
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    raw = Tokenizer.from_str(run_tokenizer.backend_tokenizer.to_str())
    bos, eos = run_tokenizer.bos_token, run_tokenizer.eos_token
    raw.post_processor = TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, run_tokenizer.bos_token_id), (eos, run_tokenizer.eos_token_id)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos, pad_token=run_tokenizer.pad_token)


def build(config: Config, tokenizer: Any) -> nn.Module:
    return Text(config, tokenizer)


class Text(nn.Module):
    """ids_BT, mask_BT -> pooled [B, width], by the tower's own pooler (what VisionTextDualEncoderModel uses too)."""

    def __init__(self, config: Config, tokenizer: Any):
        super().__init__()
        from transformers import AutoConfig, AutoModel

        if config.model:
            tower = AutoModel.from_pretrained(config.model, dtype="float32")
            self.tower = getattr(tower, "text_model", tower)
        else:
            ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
            rest = {k: v for k, v in config.config.items() if k != "model_type"}
            known = {"vocab_size": len(tokenizer), "max_position_embeddings": config.max_tokens, **ids, **rest}
            self.tower = AutoModel.from_config(AutoConfig.for_model(config.config["model_type"], **known))
        self.width: int = self.tower.config.hidden_size

    def forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.tower(input_ids=ids_BT, attention_mask=mask_BT).pooler_output
        return pooled
