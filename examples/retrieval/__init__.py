"""The parts of the examples: data, models, optimiser, training, evaluation, report."""
