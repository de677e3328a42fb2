"""What a model learns from a preferred answer beside a rejected one, one file each."""
