"""DICOM: a folder of files becomes volumes, films and pictures with their values and their place in the patient, or is
refused with a reason."""
