"""Chat examples to tune on: importing, making from rows, checking, describing and reviewing them."""
