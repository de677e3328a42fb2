"""Outlines of objects in GeoJSON, as QuPath and the PUMA challenge write them, drawn as numbers of objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.archive.tables.records import document
from medvlm.core.errors import DataError

SUFFIX = ".geojson"


def draw_outlines(path: Path, name: str, size: Sequence[int]) -> np.ndarray:
    """int32 [H, W]: from 1 on for the outlines whose `properties.classification.name` this is, 0 for none; where
    outlines overlap, the later one. size: (H, W). Raises DataError for a file that is not of the format."""
    from PIL import Image, ImageDraw

    drawn = np.zeros(tuple(size), np.int32)
    number = 0
    for feature in _list_features(path):
        if _find_name(feature) != name:
            continue
        number += 1
        for rings in _list_polygons(feature.get("geometry")):
            plane = Image.new("1", (size[1], size[0]))
            draw = ImageDraw.Draw(plane)
            for place, ring in enumerate(rings):  # the first one is the edge, the others are holes
                draw.polygon([(float(x), float(y)) for x, y, *_ in ring], fill=int(place == 0))
            drawn[np.asarray(plane)] = number
    return drawn


def _list_features(path: Path) -> list[dict[str, Any]]:
    found = document(path)
    features = found.get("features") if isinstance(found, dict) else found
    if not isinstance(features, list) or not all(isinstance(each, dict) for each in features):
        raise DataError("its outlines are no GeoJSON: expected an object with a list of features")
    return features


def _find_name(feature: dict[str, Any]) -> str:
    properties = feature.get("properties")
    classified = properties.get("classification") if isinstance(properties, dict) else None
    return str(classified.get("name", "")) if isinstance(classified, dict) else ""


def _list_polygons(geometry: Any) -> Iterator[list[Any]]:
    kind, places = (geometry.get("type"), geometry.get("coordinates")) if isinstance(geometry, dict) else (None, None)
    polygons = [places] if kind == "Polygon" else places if kind == "MultiPolygon" else None
    if not isinstance(polygons, list):
        raise DataError("an outline is neither a Polygon nor a MultiPolygon")
    for rings in polygons:
        if not all(len(ring) > 2 and all(len(place) >= 2 for place in ring) for ring in rings):
            raise DataError("an outline has fewer than three corners")
        yield rings
