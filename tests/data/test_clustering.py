"""Vectors in groups."""

from __future__ import annotations

import numpy as np
import pytest
from myna.data.clustering import Tree, cluster, condense


def voices(n_speakers, each, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_speakers, 64))
    who = rng.permutation(np.repeat(np.arange(n_speakers), each))
    made = centres[who] + noise * rng.standard_normal((len(who), 64))
    return made / np.linalg.norm(made, axis=1, keepdims=True), who


def same(labels):
    return labels[:, None] == labels


@pytest.mark.parametrize("block", [2048, 16])
def test_clusters_are_the_speakers_in_order_of_appearance(block, monkeypatch):
    monkeypatch.setattr("myna.data.clustering.BLOCK", block)
    made, who = voices(7, 9)
    found = cluster(made, 0.5)
    assert np.array_equal(same(found), same(who))
    assert list(dict.fromkeys(found.tolist())) == list(range(7))
    assert np.array_equal(found, cluster(made.astype(np.float32), 0.5))


def test_clusters_are_average_linkage():
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    made, _ = voices(6, 8, noise=1.1, seed=3)
    tree = hierarchy.linkage((1 - made @ made.T)[np.triu_indices(len(made), 1)], "average")
    for threshold in (0.2, 0.35, 0.5, 0.7):
        expected = hierarchy.fcluster(tree, 1 - threshold, "distance")
        assert np.array_equal(same(cluster(made, threshold)), same(expected)), threshold
    assert cluster(np.zeros((0, 64)), 0.5).shape == (0,)
    assert cluster(made[:1], 0.5).tolist() == [0]


def test_what_is_condensed_is_of_one_speaker(monkeypatch):
    monkeypatch.setattr("myna.data.clustering.BLOCK", 32)
    made, who = voices(4, 70)
    found = condense(made)
    assert len(found.sums) <= 32
    assert found.counts.sum() == len(made)
    assert all(len(set(who[found.labels == group])) == 1 for group in range(len(found.sums)))
    assert np.allclose(found.sums[3], made[found.labels == 3].sum(axis=0))
    few = condense(made[:10])
    assert few.labels.tolist() == list(range(10))
    assert len(condense(made[:0]).sums) == 0


def test_a_tree_can_be_cut_anywhere():
    made, who = voices(3, 5)
    tree = Tree(made, np.ones(len(made)))
    assert len(tree.joins) == len(made) - 1
    assert tree.heights == sorted(tree.heights, reverse=True)
    assert np.array_equal(same(tree.labels(len(made) - 3)), same(who))
    assert tree.labels(0).tolist() == list(range(len(made)))
    assert not tree.labels().any()
