"""Overlap of patients and images between splits and data sets, and what their licences allow in combination."""
