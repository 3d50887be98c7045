"""What levels are like: pure functions of arrays, beside the probes that say how well they classify."""
