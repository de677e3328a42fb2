"""Where the answers of a policy are drawn: a file a kind of engine."""
