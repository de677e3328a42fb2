"""What reads an encoder's features and gives class scores or masks; one file a kind."""
