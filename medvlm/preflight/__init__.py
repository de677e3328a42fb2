"""Estimates what a recipe costs and checks that it runs, before a GPU is used."""
