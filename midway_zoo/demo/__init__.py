"""What ``midway-zoo demo`` does: footage, what a network makes of it, and one picture of that."""
