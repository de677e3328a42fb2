"""DICOM: from a folder of files to volumes and images with their geometry, or an error that says why not."""
