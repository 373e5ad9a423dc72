"""Where tasks run, and the one loop that hands them out."""
