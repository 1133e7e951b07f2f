"""From pixels to per-view hands: hand model, crops, detector, landmark network."""

import sys

# Importing openvino reports to Google Analytics, unless its telemetry package cannot be imported. Nobody who tracks hands
# has been asked for that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
