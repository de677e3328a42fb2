"""Overlap of patients and images between splits and data sets, and licences together."""
