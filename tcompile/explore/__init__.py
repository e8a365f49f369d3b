"""Many designs of one network, and those of them that no other beats."""
