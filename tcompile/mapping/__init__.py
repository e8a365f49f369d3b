"""From an integer network to a design: blocks, their memories and the streams between them."""
