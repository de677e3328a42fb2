"""DICOM: from a folder of files to volumes and pictures with their geometry, or a refusal with its reason."""
