"""Imports Gradio with its telemetry switched off."""

import os

from midway_zoo.errors import MissingExtraError
from midway_zoo.extras import install_command

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # neither telemetry nor a check for newer versions

try:
    import gradio
except ImportError as error:
    raise MissingExtraError(f"the page needs Gradio: {install_command('app')}") from error

__all__ = ["gradio"]
