"""Quantization-aware training with nothing but the prepared module: distil from the float model, then export."""

import copy

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from edgedistill.export.onnx_export import export_onnx
from edgedistill.export.parity import compare_outputs, require_parity
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.quantize.prepare import calibrate, prepare
from tests.support.families import train


@pytest.mark.slow
def test_training_wins_back_what_coarse_ranges_lost():
    trained = train("mobilenet_v3")
    ready, test = trained.preprocess(trained.train), trained.preprocess(trained.test)
    prepared = prepare(trained.model, (ready,))
    calibrate(prepared, [(ready,)])
    with torch.no_grad():
        for quantizer in prepared.quantizers.values():
            quantizer.scale.mul_(6)  # ranges six times too wide: about 21 levels of use
        soft, float_logits = trained.model(ready), trained.model(test)
    agreement = {}
    for name, epochs in (("before", 0), ("after", 6)):
        torch.manual_seed(0)
        model = copy.deepcopy(prepared).train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(ready)).split(32):
                loss = F.kl_div(model(ready[rows]).log_softmax(1), soft[rows].softmax(1), reduction="batchmean")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            logits = model.eval()(test)
        agreement[name] = float((logits.argmax(1) == float_logits.argmax(1)).float().mean())
    assert agreement["after"] > agreement["before"] + 0.01, agreement
    expected = logits.numpy()[:, None]
    got = run_onnx(serialized(export_onnx(model, (test[:1],), 18)), {"input": test.numpy()[:, None]})["logits"]
    require_parity(compare_outputs(expected, got), expected, "int8", "trained")
