"""What is exported as one graph: normalization, the network, probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exported_networks import card, network

from ssfnas.exports.plain_network import OUTPUTS, PIXELS, PlainNetwork, trace


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("multi_label", [False, True])
def test_every_form_of_pixels_gives_what_the_definition_gives(pixels, multi_label):
    known = card(multi_label=multi_label)
    net = network()
    wide = network().double()
    levels = np.random.default_rng(0).integers(0, 256, (4, 12, 8, 3), dtype=np.uint8)
    unit = levels.transpose(0, 3, 1, 2) / 255
    mean, std = (
        np.float64(np.float32(values))[:, None, None]
        for values in (known.data.mean, known.data.std)
    )
    normalized = (unit - mean) / std
    with torch.no_grad():
        logits = wide(torch.from_numpy(normalized)).numpy()
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    expected = {
        "logits": logits,
        "probabilities": (
            1 / (1 + np.exp(-logits)) if multi_label else shifted / shifted.sum(1, keepdims=True)
        ),
    }
    given = {"float": unit, "normalized": normalized, "uint8": levels}[pixels]
    for output in OUTPUTS:
        plain = PlainNetwork(net, known, pixels, output)
        exact = plain.exact(torch.from_numpy(given))
        np.testing.assert_allclose(exact.numpy(), expected[output], rtol=0, atol=1e-12)
        images = torch.from_numpy(given)
        single = plain(images if pixels == "uint8" else images.float())
        np.testing.assert_allclose(single.detach().numpy(), expected[output], rtol=0, atol=1e-4)


@pytest.mark.parametrize("pixels", PIXELS)
def test_images_are_drawn_in_the_form_that_is_taken(pixels):
    plain = PlainNetwork(network(), card(), pixels, "logits")
    images = plain.draw(6)
    assert tuple(images.shape) == (6, *plain.input_shape)
    assert torch.equal(images, plain.draw(6))
    if pixels == "uint8":
        assert images.dtype == torch.uint8
    if pixels == "float":
        assert images.min() >= 0
        assert images.max() <= 1
        torch.testing.assert_close(images * 255, (images * 255).round())


def test_the_graph_has_plain_operations_alone_and_no_paths():
    plain = PlainNetwork(network(cosines=True), card(), "float", "probabilities")
    program = trace(plain)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {target.partition(".")[0] for target in targets} == {"aten"}
    assert not any("stack_trace" in node.meta for node in program.graph.nodes)
    for count in (1, 7):
        images = plain.draw(count)
        torch.testing.assert_close(program.module()(images), plain(images), rtol=0, atol=1e-5)
