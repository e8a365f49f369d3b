"""From real numbers to exact integers."""
