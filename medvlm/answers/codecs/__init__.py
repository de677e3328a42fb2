"""How a family of models writes boxes, one file a way; `answers/boxes` reads them all."""
