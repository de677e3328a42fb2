"""What another model with decoders finds in the images of a question, in words: as ChatCAD's program (arXiv
2302.07257), which asks its networks about every image before the language model answers. Their masks are shown by the
tool of this name alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from medvlm.core.errors import RecipeError
from medvlm.core.experts import Images
from medvlm.knowledge._contract import KnowledgeConfig
from medvlm.knowledge._verdict import AsksExpert


class Config(KnowledgeConfig, AsksExpert):
    kind: Literal["expert"]
    media: tuple[str, ...] = ()
    """Kinds of media that it is asked about, where a recipe has others too; by default all. It looks at the first one
    of a question."""

    def list_experts(self) -> Sequence[str]:
        return (self.run,)


def fingerprint(config: Config) -> str:
    return config.hash_records()


def build(config: Config) -> Colleague:
    return Colleague(config)


class Colleague:
    def __init__(self, config: Config):
        self._config = config

    def look_up(self, asked: str, images: Images | None = None) -> list[str]:
        """What it says of all of its classes, whatever is asked; nothing for a question without such an image.

        Raises RecipeError for a model that only draws."""
        if images is None:
            return []
        config, sample = self._config, images.sample
        own = [medium for medium in sample.media if not config.media or medium.kind in config.media]
        if not own:
            return []
        scores, _ = images.open_expert(config.run).look(replace(sample, media=(own[0],)), images.files)
        if not scores:
            raise RecipeError(
                f"knowledge: {config.run} has no decoder that says something of a whole image, in classes"
            )
        return list(config.verbalise(scores))
