"""Networks as ONNX."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from exported_networks import NAMES, card, network

from ssfnas.errors import RequestError
from ssfnas.exports import onnx_file
from ssfnas.exports.checks import check
from ssfnas.exports.onnx_file import OnnxNetwork, check_packages, onnx_bytes
from ssfnas.exports.plain_network import PlainNetwork


@pytest.fixture(scope="module")
def onnx():
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    return pytest.importorskip("onnx")


@pytest.mark.parametrize(
    ("opset", "pixels", "output", "multi_label", "cosines", "channels"),
    [
        (18, "float", "logits", False, True, 3),
        pytest.param(
            *(20, "uint8", "probabilities", True, False, 1),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_file_holds_the_network_and_what_has_to_be_known(
    onnx, opset, pixels, output, multi_label, cosines, channels
):
    known = card(channels=channels, multi_label=multi_label)
    plain = PlainNetwork(network(channels=channels, cosines=cosines), known, pixels, output)
    content = onnx_bytes(plain, opset, known.facts())
    check("it", OnnxNetwork(content), plain)
    run = OnnxNetwork(content)
    for count in (1, 3):
        images = plain.draw(count, seed=count)
        expected = plain.exact(images).numpy()
        np.testing.assert_allclose(run(images).numpy(), expected, rtol=0, atol=1e-4)

    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert not model.functions
    for value, shape in ((model.graph.input[0], plain.input_shape), (model.graph.output[0], (3,))):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert tuple(size.dim_value for size in others) == tuple(shape)
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("images", output)
    held = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(held["class_names"]) == list(NAMES)
    assert json.loads(held["mean"]) == list(known.data.mean)
    assert held["background"] == "gray"
    # Neither paths nor names of classes.
    assert b".py" not in content
    assert b"ssfnas." not in content


@pytest.mark.slow
def test_an_opset_that_is_not_known_is_one_line(onnx):
    plain = PlainNetwork(network(), card(), "float", "logits")
    with pytest.raises(RequestError, match="--opset 99"):
        onnx_bytes(plain, 99, {})


def test_missing_packages_are_named_with_what_installs_them(monkeypatch):
    found = importlib.util.find_spec
    gone = ("onnx", "onnxruntime")
    monkeypatch.setattr(
        onnx_file.importlib.util,
        "find_spec",
        lambda name: None if name in gone else (found(name) or name),
    )
    with pytest.raises(RequestError, match=r"needs onnx and onnxruntime: pip install onnx "):
        check_packages()
