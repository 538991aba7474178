"""Imports OpenVINO without letting it report home. Call `refuse_telemetry()` before importing anything that uses it.

Both send an event to Google Analytics as soon as they are imported, unless a file in the user's home forbids it
(`openvino/tools/ovc/__init__.py` of 2026.4 sends "general_import"; `nncf/telemetry/wrapper.py` likewise), and leave a
client id in ~/intel. They know no environment variable against it except CI's. Both go without where the package
`openvino_telemetry` cannot be imported: so here it cannot be.
"""

import sys
from typing import Any


def refuse_telemetry() -> None:
    """Make `import openvino_telemetry` fail in this process; if it has been imported already, make its sender mute."""
    if sys.modules.get("openvino_telemetry") is None:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # what importlib raises ImportError for
        return
    from openvino_telemetry.utils.sender import TelemetrySender  # type: ignore[import-untyped]

    TelemetrySender.send = _send_nothing


def import_openvino() -> Any:
    """The module `openvino`, mute."""
    refuse_telemetry()
    import openvino

    return openvino


def _send_nothing(*_arguments: Any, **_options: Any) -> None:
    """Stands in for TelemetrySender.send."""
