"""A network as one ONNX file."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.exports.plain_network import BATCH_NAME, INPUT_NAME, PlainNetwork, trace

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """See that all is there that makes such files and runs them.

    Raises:
        RequestError: a package is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"--format onnx needs {' and '.join(missing)}: pip install {' '.join(_PACKAGES)}"
        )


def onnx_bytes(network: PlainNetwork, opset: int, facts: Mapping[str, Any]) -> bytes:
    """The content of an ONNX file: input ``images``, output ``logits`` or ``probabilities``.

    Args:
        network: what it computes.
        opset: version of ONNX's operators.
        facts: go into the file's ``metadata_props``: texts as they are, all else as JSON.

    Raises:
        RequestError: an operation has no form in ONNX, or not in that opset.
    """
    program = trace(network)
    with _quietly():
        try:
            converted = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[network.output],
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise RequestError(
                f"no ONNX with --opset {opset}: {_brief(error)}: try a lower one, or "
                "--format torch-export"
            ) from error
    assert converted is not None
    model = converted.model_proto
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found.get("") != opset:
        raise RequestError(
            f"--opset {opset} cannot hold this network, {found.get('')} can: give that one"
        )
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]  # names of our classes
        part.doc_string = ""
    # Some versions call the number of images by a name of their own.
    unnamed = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == unnamed:
                size.dim_param = BATCH_NAME
    for key, fact in facts.items():
        text = fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        model.metadata_props.add(key=key, value=text)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class OnnxNetwork:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        content: of the file.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Outputs [N, classes] for images."""
        (output,) = self._session.run(None, {INPUT_NAME: images.numpy()})
        return torch.from_numpy(output)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the converter tells of its own work."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
