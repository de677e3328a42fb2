"""Text towers of transformers for dual encoders: BERT-like and CLIP-like."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.contracts import Loaded
from medvlm.core.errors import ShapeError
from medvlm.core.weights import from_pretrained


class Config(Loaded):
    kind: Literal["transformers"]
    model: str = ""
    """Hub id or local folder with weights and tokenizer."""
    config: dict[str, Any] = {}
    """Without `model`: {model_type: bert, hidden_size: ...}, from scratch, with the run's tokenizer."""
    vocabulary: int = Field(2048, gt=300)
    """Size of the tokenizer that is trained for it when the recipe has no language model to share one with."""
    max_tokens: int = Field(256, gt=0)
    overlong: Literal["refuse", "cut"] = "refuse"
    """A longer text is refused (its sample is quarantined), or, where that is said here, cut to its first `max_tokens`,
    of which the last is the token that ends a text: CLIP's towers of 77 tokens were trained so."""

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
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=bos, eos_token=eos, pad_token=run_tokenizer.pad_token
    )


def build(config: Config, tokenizer: Any) -> nn.Module:
    return Text(config, tokenizer)


class Text(nn.Module):
    """ids_BT, mask_BT -> pooled [B, width], by the tower's own pooler (what VisionTextDualEncoderModel uses too)."""

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
            rest = {
                k: deepcopy(v) for k, v in config.config.items() if k != "model_type"
            }  # transformers writes into nested settings
            known = {"vocab_size": len(tokenizer), "max_position_embeddings": config.max_tokens, **ids, **rest}
            made = AutoConfig.for_model(config.config["model_type"], **known)
            # The only tower of its kind that AutoModel does not know by itself.
            self.tower = (
                SiglipTextModel(made) if made.model_type == "siglip_text_model" else AutoModel.from_config(made)
            )
        known = self.tower.config
        self.is_siglip = known.model_type.startswith("siglip")
        self.width: int = known.projection_size if self.is_siglip else known.hidden_size

    def forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        if self.is_siglip:
            # SigLIP pools at the last place and was trained on texts filled up to the full length, without a mask
            # (arXiv 2303.15343; transformers' SiglipTextModel): another length would be another embedding.
            known: Any = self.tower.config
            if ids_BT.shape[1] > known.max_position_embeddings:
                raise ShapeError(
                    f"text: {ids_BT.shape[1]} tokens, and this tower reads {known.max_position_embeddings}; set"
                    " text.max_tokens to that"
                )
            ids_BT = torch.nn.functional.pad(
                ids_BT.masked_fill(mask_BT == 0, self.pad_id),
                (0, known.max_position_embeddings - ids_BT.shape[1]),
                value=self.pad_id,
            )
            return self.tower(input_ids=ids_BT).pooler_output  # type: ignore[no-any-return]
        pooled: torch.Tensor = self.tower(input_ids=ids_BT, attention_mask=mask_BT).pooler_output
        return pooled
