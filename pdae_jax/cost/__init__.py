"""What a program would cost, without running it."""
