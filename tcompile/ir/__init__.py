"""The intermediate representation: a real-number level and an integer level."""
