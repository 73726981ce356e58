"""A phone of the tests: what its commands print, its address, and models that are compiled for it."""

from edgedistill.deploy.harness import Compilation, compile_model
from edgedistill.kits.kits import read_kit
from tests.support.jobs import TARGETS

ORT = TARGETS / "ort"
GETPROP = """[ro.build.version.release]: [14]
[ro.product.manufacturer]: [Example]
[ro.product.model]: [Phone 7]
[ro.serialno]: [ABC123]
[ro.soc.manufacturer]: [Maker]
[ro.soc.model]: [X1]
"""
BATTERY = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  status: 2\n  level: 84\n  voltage: 4063\n"
THERMAL = """Thermal Status: 0
Cached temperatures:
	Temperature{mValue=80.0, mType=2, mName=battery, mStatus=3}
Current temperatures from HAL:
	Temperature{mValue=31.25, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
Current cooling devices from HAL:
"""


def url(device, runner):
    return f"adb://{device.serial}?runner={runner}"


def compiled(models, name, out, address):
    """Compile a model for the phone; return its arm of a job."""
    precision = "fp32" if name == "fp32" else "int8"
    out.mkdir(parents=True)
    made = compile_model(
        Compilation(
            kit=read_kit(ORT), model=models / f"{name}.onnx", precision=precision, threads=1, out=out, address=address
        )
    )
    assert made["entry"] == "mobile/model.ort"
    return {
        "name": name, "target": "phone", "address": address, "kit": "ort", "kit_dir": str(ORT), "precision": precision,
        "threads": 1, "entry": str(out / made["entry"]), "size_bytes": (out / made["entry"]).stat().st_size,
        "model": {"name": "tiny", "sha256": "0" * 64, "lineage": {}}, "io": str(models / "io.npz"), "expected": name,
        "metric": "top1",
    }  # fmt: skip
