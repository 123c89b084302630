"""The commands of `raylora cluster`, and of `raylora sweep --cluster`."""
