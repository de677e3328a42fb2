"""What an encoder is trained with on images alone, one file a method; see _base.py for what a file offers."""
