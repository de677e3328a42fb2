"""RadFM (arXiv 2308.02463; chaoyi-wu/RadFM, src/Model/RadFM, at 9efba84): a ViT over volumes, a Perceiver resampler and
LLaMA-13B.

The release has the words before and after an image in a table of their own; here they are the last rows of the
vocabulary, behind the placeholder of an image.
"""

from __future__ import annotations

from medvlm.core.layouts import KeyRule, Layout

TOWER = r"embedding_layer\.vision_encoder\."
OURS = "encoders.{encoder}.tower."
BLOCK, OUR_BLOCK = TOWER + r"transformer\.layers\.(\d+)\.", OURS + r"blocks.\1."
QUERIES = r"embedding_layer\.perceiver\."
LAYER, OUR_LAYER = QUERIES + r"layers\.(\d+)\.", r"connectors.{encoder}.blocks.\1."
WORDS = "language.model.embed_tokens.weight"

LAYOUTS = (
    Layout(
        title="RadFM",
        marks=("embedding_layer.figure_token_weight", "embedding_layer.perceiver.latents"),
        rules=(
            KeyRule(TOWER + r"to_patch_embedding\.1\.(.+)", OURS + r"norm_patches.\1"),
            KeyRule(TOWER + r"to_patch_embedding\.2\.(.+)", OURS + r"project.\1"),
            KeyRule(TOWER + r"to_patch_embedding\.3\.(.+)", OURS + r"norm_tokens.\1"),
            KeyRule(TOWER + r"pos_embedding\.row_embed\.weight", OURS + "rows.weight"),
            KeyRule(TOWER + r"pos_embedding\.col_embed\.weight", OURS + "columns.weight"),
            KeyRule(TOWER + r"pos_embedding\.dep_embed\.weight", OURS + "slices.weight"),
            KeyRule(BLOCK + r"0\.norm\.(.+)", OUR_BLOCK + r"norm_1.\2"),
            KeyRule(BLOCK + r"0\.fn\.to_qkv\.weight", OUR_BLOCK + "qkv.weight"),
            KeyRule(BLOCK + r"0\.fn\.to_out\.0\.(.+)", OUR_BLOCK + r"out.\2"),
            KeyRule(BLOCK + r"1\.norm\.(.+)", OUR_BLOCK + r"norm_2.\2"),
            KeyRule(BLOCK + r"1\.fn\.net\.0\.(.+)", OUR_BLOCK + r"mlp.0.\2"),
            KeyRule(BLOCK + r"1\.fn\.net\.3\.(.+)", OUR_BLOCK + r"mlp.2.\2"),
            KeyRule(QUERIES + "latents", "connectors.{encoder}.queries"),
            KeyRule(LAYER + r"0\.norm_media\.(.+)", OUR_LAYER + r"norm_patches.\2"),
            KeyRule(LAYER + r"0\.norm_latents\.(.+)", OUR_LAYER + r"norm_queries.\2"),
            KeyRule(LAYER + r"0\.to_q\.weight", OUR_LAYER + "query.weight"),
            KeyRule(LAYER + r"0\.to_kv\.weight", OUR_LAYER + "key_value.weight"),
            KeyRule(LAYER + r"0\.to_out\.weight", OUR_LAYER + "out.weight"),
            KeyRule(LAYER + r"1\.0\.(.+)", OUR_LAYER + r"norm_mlp.\2"),
            KeyRule(LAYER + r"1\.1\.weight", OUR_LAYER + "mlp.0.weight"),
            KeyRule(LAYER + r"1\.3\.weight", OUR_LAYER + "mlp.2.weight"),
            KeyRule(QUERIES + r"norm\.(.+)", r"connectors.{encoder}.norm.\1"),
            KeyRule(r"embedding_layer\.fc\.(.+)", r"connectors.{encoder}.project.\1"),
            KeyRule(r"lang_model\.model\.embed_tokens\.weight", WORDS, rows="first"),
            KeyRule(r"embedding_layer\.figure_token_weight", WORDS, rows="last"),
            KeyRule(r"lang_model\.lm_head\.weight", "language.lm_head.weight", rows="first"),
            KeyRule(r"lang_model\.(model\.(?:layers|norm)\..+)", r"language.\1"),
        ),
        left_out={
            "embedding_layer.weight": "the embeddings of the language model again",
            "embedding_layer.bert_*": "the words of an earlier loss (MedKEBERT)",
            "embedding_layer.transformer_decoder*": "an earlier loss and masks",
            "embedding_layer.cls_head.*": "an earlier loss",
            "embedding_layer.output_upscaling.*": "masks",
            "*.rotary_emb.inv_freq": "computed",
        },
        recipe="base/radfm.yaml",
    ),
)
