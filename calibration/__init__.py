"""Real images become ranges, ranges become a Q/DQ graph (INT8) or a float16 graph (FP16)."""
