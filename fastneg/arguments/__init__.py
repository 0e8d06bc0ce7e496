"""What each loss was called with, converted and checked: one frozen dataclass per loss.

A public function and its reference of the same signature construct it, and every backend takes it
whole. So an argument list stands in those two functions and here, and nowhere else.
"""
