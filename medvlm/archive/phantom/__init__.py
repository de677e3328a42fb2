"""Made-up radiographs and volumes with known findings."""
