"""The examples in docstrings work as printed."""

import doctest

import keras
import pytest
import tensorflow as tf

import fastneg
from fastneg import config


@pytest.mark.parametrize(
    "documented",
    [
        fastneg.distribute.gather_candidates,
        fastneg.in_batch_softmax_loss,
        fastneg.negative_cosine_loss,
        fastneg.pairwise_loss,
        fastneg.positive_ranks,
        fastneg.sampled_softmax_loss,
        fastneg.softmax_loss_with_negative_mining,
        fastneg.support_vector_guided_softmax_loss,
        fastneg.use_backend,
        fastneg.layers.CandidateQueue,
        fastneg.layers.NegativeCosineLayer,
        fastneg.layers.NegativeMiningSoftmaxLoss,
        fastneg.layers.Retrieval,
        fastneg.layers.SampledSoftmaxEmbedding,
        fastneg.layers.SampledSoftmaxLayer,
        fastneg.losses.OutputLoss,
        fastneg.losses.PairwiseLoss,
        fastneg.metrics.FactorizedTopK,
    ],
    ids=lambda value: value.__name__,
)
def test_examples(monkeypatch: pytest.MonkeyPatch, documented: object) -> None:
    monkeypatch.setattr(config, "_default", None)
    monkeypatch.setattr(config, "_resolved", None)
    tests = doctest.DocTestFinder(recurse=False).find(
        documented, globs={"fastneg": fastneg, "keras": keras, "tf": tf}
    )
    assert sum(len(test.examples) for test in tests) > 0
    runner = doctest.DocTestRunner()
    for test in tests:
        assert runner.run(test).failed == 0
