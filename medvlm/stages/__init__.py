"""What a stage trains, on what, with which objective."""
