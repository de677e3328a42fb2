"""Findings in English reports of chest radiographs, read by rules."""
