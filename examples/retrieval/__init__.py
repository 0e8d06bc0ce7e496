"""The parts of the two-tower example: data, model, optimiser, training, evaluation, report."""
