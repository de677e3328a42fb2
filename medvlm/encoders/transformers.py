"""Vision towers of transformers: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3, ViT, ConvNeXt, Swin and any other model with
patch tokens that AutoModel can build."""

from __future__ import annotations

import inspect
import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import nn

from medvlm.core.arguments import refuse_values
from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Layers, Loaded, Masking, Preprocess
from medvlm.core.errors import CheckpointError, ShapeError
from medvlm.core.weights import from_pretrained, open_stock
from medvlm.encoders._features import MeasuredEncoder, join_maps, select_layers
from medvlm.encoders._masking import MASKED, choose, find_grid, run_masked

PLAIN = (
    "clip_vision_model",
    "siglip_vision_model",
    "siglip2_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "vit",
    "deit",
    "beit",
    "ijepa",
    "clip",
    "siglip",
    "siglip2",
    "video_llama_3_vision",
)
"""Model types with one token per patch, `hidden_size` wide. Other types are measured after they are built."""
ANY_SIZE = ("siglip2_vision_model", "dinov2", "dinov2_with_registers", "dinov3_vit", "video_llama_3_vision")
"""Members of PLAIN that take any input size; the others are made for one."""

LIBRARY = "transformers"
"""The library that the class of `tower` is from."""
CAN_BE_FUSED = SEES_SLICES = True


class Config(EncoderConfig, Loaded):
    kind: Literal["transformers"]
    model: str = ""
    """Hub id or local folder with weights."""
    config: dict[str, Any] = {}
    """Instead of `model`: the config of a tower that starts from scratch, {model_type: siglip_vision_model,
    hidden_size: ...}."""
    layer: Layers | Literal["normed"] = -1
    """The hidden state that gives the patch tokens, counted from the end (LLaVA's vision_feature_layer): -2, [-5, -2],
    or `all` for the output of every layer. `normed`: the last one after the tower's final norm, as in Idefics3."""
    interpolate: bool = False
    """Interpolates the position embeddings of a tower made for one size to preprocess.size."""
    preprocess: Preprocess | None = None
    """By default read from the model's preprocessor_config.json; without one, the image size of its config and mean =
    std = 0.5."""

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if bool(self.model) == bool(self.config):
            raise ValueError("give either `model` (hub id or folder) or `config` (from scratch)")
        if self.config and "model_type" not in self.config:
            raise ValueError("config.model_type is missing, e.g. siglip_vision_model, clip_vision_model, dinov2")
        return self


def facts(config: Config) -> EncoderFacts:
    """Raises ShapeError for a size that the tower is not made for, or heads that do not divide its width."""
    known, stated = _read_config(config), _read_preprocess(config)
    if known.get("model_type") not in PLAIN:
        return EncoderFacts(width=None, grid=None)
    patch, size = known.get("patch_size"), stated.size if stated else None
    grid = tuple(side // patch for side in size) if size and isinstance(patch, int) and patch > 0 else None
    width, heads, layers, made_for = (
        value if isinstance(value := known.get(key), int) else None
        for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "image_size")
    )
    count = layers if config.layer == "all" else 1 if isinstance(config.layer, int | str) else len(config.layer)
    if width and heads and width % heads:
        raise ShapeError(f"encoders: {heads} heads do not divide the tower's width of {width}; change one of them")
    if known["model_type"] not in ANY_SIZE and isinstance(made_for, int) and size and not config.interpolate:
        check_size(made_for, size)
    return EncoderFacts(width=width * count if width and count else None, grid=grid)


def preprocess(config: Config) -> Preprocess:
    """Raises ShapeError if neither the recipe nor the model says how large the input is."""
    if stated := _read_preprocess(config):
        return stated
    size = _load_auto_config(config).image_size if config.model else None
    if not isinstance(size, int):
        raise ShapeError(
            "encoders: the config of this tower has no image size; set preprocess: {size: [height, width]}"
        )
    return Preprocess(size=(size, size))


def not_stock(config: Config) -> str:
    """Why transformers alone cannot compute this encoder; "" if it can."""
    if config.interpolate:
        return "interpolate is true, but stock classes do not interpolate position embeddings by default"
    return ""


def build(config: Config) -> nn.Module:
    from transformers import AutoModel

    if not config.model:
        made = _load_auto_config(config)
        with refuse_values("model.encoders: config"):
            built = AutoModel.from_config(made, trust_remote_code=False)
        return Tower(built, config)
    tower = from_pretrained(AutoModel, config.model, config, "encoders")
    # A full CLIP or SigLIP checkpoint also has a text tower, one of SAM a mask decoder; only the vision tower is used.
    return Tower(getattr(tower, "vision_model", getattr(tower, "vision_encoder", tower)), config)


def standalone(config: Config, built: Any) -> Config:
    if not config.model:
        return config
    own = {
        k: v
        for k, v in built.tower.config.to_dict().items()
        if k not in ("architectures", "transformers_version", "dtype", "_name_or_path")
    }
    return config.model_copy(update={"model": "", "config": own})


class Tower(MeasuredEncoder):
    """[N, C, H, W] -> Features. The patches exclude class and register tokens."""

    def __init__(self, tower: nn.Module, config: Config):
        super().__init__()
        self.tower = tower
        known: Any = tower.config
        before = preprocess(config)
        count = known.num_hidden_layers if hasattr(known, "num_hidden_layers") else len(known.depths)
        self.layers = () if config.layer == "normed" else select_layers(config.layer, count)
        accepts = inspect.signature(tower.forward).parameters
        # DINOv2 always interpolates its position embeddings. A tower that only does so on request is made for one size.
        is_fixed = "interpolate_pos_encoding" in accepts and before.size != (known.image_size, known.image_size)
        if is_fixed and not config.interpolate:
            check_size(known.image_size, before.size)
        self.options = {"interpolate_pos_encoding": True} if is_fixed else {}
        self.takes_patches = "spatial_shapes" in accepts  # SigLIP 2 of variable resolution
        self.takes_grid = "grid_thw" in accepts and "merge_sizes" in accepts  # VideoLLaMA 3
        patch = getattr(known, "patch_size", 1)
        self.patch: int = patch if isinstance(patch, int) else patch[0]
        self.can_mask = known.model_type in MASKED and self.layers in ((), (-1,))
        self.can_resize = "interpolate_pos_encoding" in accepts
        self.measure(before.shape, facts(config))

    def forward(self, pixels_NCHW: torch.Tensor, masking: Masking | None = None) -> Features:
        if masking is not None:
            return self._forward_masked(pixels_NCHW, masking)
        vit_grid = tuple(side // self.patch for side in pixels_NCHW.shape[2:])
        given = {"pixel_values": pixels_NCHW}
        if self.takes_patches:
            given = _patchify(pixels_NCHW, self.patch)
        elif self.takes_grid:
            given = _list_patches(pixels_NCHW, self.patch)
        out = self.tower(**given, output_hidden_states=True, **self.options)
        hidden = out.get("reshaped_hidden_states") or out.hidden_states  # Swin gives its maps under this name
        states = [hidden[n] for n in self.layers] or [out.last_hidden_state]
        if self.takes_grid:
            states = [state.unflatten(0, (len(pixels_NCHW), -1)) for state in states]
        if states[0].ndim == 4:
            features = join_maps(states)
        else:
            prefix = states[0].shape[1] - math.prod(vit_grid)
            if prefix < 0 or "ids_restore" in out:
                raise ShapeError(
                    "encoders: this tower masks and shuffles its patches (a masked autoencoder); load its weights as a"
                    " plain tower, e.g. model_type vit"
                )
            patches = torch.cat([s[:, prefix:] for s in states], -1) if len(states) > 1 else states[0][:, prefix:]
            features = Features(
                patches, patches.mean(1), vit_grid, heads=torch.cat([s[:, :prefix] for s in states], -1)
            )
        pooled = out.get("pooler_output")
        if pooled is not None and pooled.flatten(1).shape[1] == features.patches.shape[-1]:
            features.pooled = pooled.flatten(1)
        return features

    def _forward_masked(self, pixels_NCHW: torch.Tensor, masking: Masking) -> Features:
        grid = find_grid(pixels_NCHW, (self.patch, self.patch))
        options = {"interpolate_pos_encoding": True} if self.can_resize else {}

        def run() -> Any:
            return self.tower(pixel_values=pixels_NCHW, output_hidden_states=True, **options)

        out = run_masked(self.tower, math.prod(grid), masking, run)
        # The first of the hidden states are the embeddings. With layer: -1, the last one is taken before the norm.
        states = [*out.hidden_states[1:-1], out.hidden_states[-1] if self.layers else out.last_hidden_state]
        kept = math.prod(grid) if masking.kept_NK is None else masking.kept_NK.shape[1]
        pooled = out.get("pooler_output")
        is_whole = pooled is not None and pooled.shape[-1] == states[-1].shape[-1]
        return choose(states, states[-1].shape[1] - kept, grid, masking, pooled if is_whole else None)


def check_size(made_for: int, size: tuple[int, ...]) -> None:
    if size != (made_for, made_for):
        raise ShapeError(
            f"encoders: this tower takes {made_for} x {made_for} pixels, preprocess.size is {list(size)}; set both to"
            " the same size, or interpolate: true"
        )


def _patchify(pixels_NCHW: torch.Tensor, patch: int) -> dict[str, torch.Tensor]:
    """The inputs of a tower of variable resolution: each patch flattened to a row of pixels, channels last, as by
    Siglip2ImageProcessor."""
    count, _, height, width = pixels_NCHW.shape
    rows, columns = height // patch, width // patch
    # [N, C, rows, patch, columns, patch]
    blocks = pixels_NCHW.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))
    patches = blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    mask = torch.ones(count, rows * columns, dtype=torch.long, device=pixels_NCHW.device)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[rows, columns]] * count, device=pixels_NCHW.device),
    }


def _list_patches(pixels_NCHW: torch.Tensor, patch: int) -> dict[str, torch.Tensor]:
    """The inputs of a tower that takes the patches of all images in one list, each patch [C, patch, patch] flattened,
    row by row, and joins none of them."""
    count, _, height, width = pixels_NCHW.shape
    blocks = pixels_NCHW.unflatten(3, (width // patch, patch)).unflatten(2, (height // patch, patch))
    grid = torch.tensor([[1, height // patch, width // patch]] * count, device=pixels_NCHW.device)
    return {
        "pixel_values": blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2),
        "grid_thw": grid,
        "merge_sizes": torch.ones(count, dtype=torch.long, device=pixels_NCHW.device),
    }


def _load_auto_config(config: Config) -> Any:
    from transformers import AutoConfig

    if config.model:
        try:
            found = open_stock(AutoConfig, config.model)
        except OSError as reason:
            first = str(reason).strip().splitlines()[0]
            raise CheckpointError(f"encoders.model: cannot read {config.model!r} ({first}); check the id") from None
        return getattr(found, "vision_config", found)
    # Copied, because transformers writes into nested settings.
    rest = {k: deepcopy(v) for k, v in config.config.items() if k != "model_type"}
    with refuse_values("model.encoders: config"):
        return AutoConfig.for_model(config.config["model_type"], **rest)


def _read_preprocess(config: Config) -> Preprocess | None:
    """The preprocessing, if the recipe or a local folder gives it; transformers is not imported."""
    if config.preprocess:
        return config.preprocess
    stored = Path(config.model) / "preprocessor_config.json"
    if config.model and stored.is_file():
        return parse_processor(json.loads(stored.read_text()))
    known = _read_config(config)
    size = known.get("image_size")
    channels = known.get("num_channels", 3)
    channels = channels if isinstance(channels, int) else 3  # building the tower refuses another
    return Preprocess(size=(size, size), channels=channels) if isinstance(size, int) else None


def _read_config(config: Config) -> dict[str, Any]:
    """The tower's config, if the recipe or a local folder gives it, else {}; transformers is not imported."""
    if config.config:
        return config.config
    stored = Path(config.model) / "config.json"
    if not stored.is_file():
        return {}
    found: dict[str, Any] = json.loads(stored.read_text())
    return {"model_type": found.get("model_type"), **found.get("vision_config", found)}


def parse_processor(stored: dict[str, Any]) -> Preprocess:
    crop, size = stored.get("do_center_crop", False), stored.get("size", {})
    target = stored.get("crop_size") if crop else size
    if isinstance(target, int):
        target = {"height": target, "width": target}
    if not target or "height" not in target:
        side = size.get("shortest_edge", 224)
        target = {"height": side, "width": side}
    return Preprocess(
        size=(target["height"], target["width"]),
        fit="crop" if crop else "squash",
        mean=tuple(stored.get("image_mean", (0.5, 0.5, 0.5))),
        std=tuple(stored.get("image_std", (0.5, 0.5, 0.5))),
    )
