"""Gradio, told to keep to itself before it is imported."""

import os

from midway_zoo.errors import MissingExtraError
from midway_zoo.extras import install_command

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # no telemetry, and no question whether there is a newer version

try:
    import gradio
except ImportError as error:
    raise MissingExtraError(f"the page needs Gradio: {install_command('app')}") from error

__all__ = ["gradio"]
