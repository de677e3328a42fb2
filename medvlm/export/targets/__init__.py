"""Formats that a trained model can be exported to. Each file is a target; its name is the value of `export.target`."""
