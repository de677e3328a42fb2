"""How a family of models writes boxes, one file a way; `tasks/_writing` reads them all."""
