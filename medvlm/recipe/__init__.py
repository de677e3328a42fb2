"""The recipe as one thing: file, schema, rules, shapes, summary, sources."""
