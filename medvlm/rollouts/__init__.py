"""Engines that generate the answers of a policy, one file each."""
