"""Check a target of a configuration: its kit, its precisions, the opset and the device."""

from __future__ import annotations

from edgedistill.config.schema import Config, TargetConfig
from edgedistill.deploy.devices.address import artifact_folder, parse_address
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import FLOAT16_OPSET, Kit, find_kit
from edgedistill.stages.stage import Sources


def check_target(sources: Sources, target: TargetConfig) -> None:
    """Raise ConfigError for a target whose kit, precision, opset or device cannot be as configured."""
    config = sources.config
    kit = find_kit(target.kit, dict(sources.kits))
    if kit.name != target.kit:
        raise ConfigError(f"target '{target.name}': unknown kit '{target.kit}'; write kit = \"{kit.name}\"")
    for precision in target.precisions:
        if precision not in kit.precisions:
            raise ConfigError(
                f"target '{target.name}': kit '{kit.name}' has no precision '{precision}'; "
                f"it has {', '.join(kit.precisions)}"
            )
    if config.data.is_text and (not kit.lengths or target.device.startswith("adb:")):
        where = f"kit '{kit.name}'" + (" on a phone" if kit.lengths else "")
        instead = "measure it in its browser with 'edgedistill serve'" if kit.lengths else "use kit 'ort' or 'openvino'"
        raise ConfigError(
            f"target '{target.name}': {where} does not run models of texts, whose length varies; {instead}"
        )
    wants_int8 = "int8" in target.precisions
    _check_opset(config, kit, wants_int8=wants_int8)
    try:
        parse_address(target.device)
    except ConfigError as error:
        raise ConfigError(f"target '{target.name}': {error}") from None
    if wants_int8 and config.quantize.mode == "none":
        raise ConfigError(f"target '{target.name}' includes int8, but quantize.mode is 'none'; set it to 'auto'")
    if wants_int8 and config.quantize.activations != "auto":
        kit.for_activations(config.quantize.activations)


def check_file_names(config: Config) -> None:
    """Raise ConfigError for two targets whose files have the same names, so that one would replace the files of the other."""
    first: dict[str, TargetConfig] = {}
    for target in config.target:
        other = first.setdefault(artifact_folder(target.kit, target.device).lower(), target)
        if other is not target:
            raise ConfigError(
                f"target '{target.name}': its files have the same names as those of target '{other.name}', because files are named by "
                "kit and host; move one of the two targets to a second configuration"
            )


def _check_opset(config: Config, kit: Kit, *, wants_int8: bool) -> None:
    opset = config.export.opset
    if opset is None:
        return
    if opset > kit.opset:
        raise ConfigError(
            f"export.opset: opset {opset} is too new for kit '{kit.name}', which supports at most opset {kit.opset}"
        )
    halves = [form for form in kit.form if form.encoding == "s8-f16" and wants_int8]
    if halves and opset < FLOAT16_OPSET:
        raise ConfigError(
            f"export.opset: opset {opset} is too old for kit '{kit.name}': from version {halves[0].since} on it takes int8 with float16 "
            f"scales, which need opset {FLOAT16_OPSET}; remove the key"
        )
