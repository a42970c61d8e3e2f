"""``midway-zoo app``: a page to play with, by Gradio (extra ``app``); see docs/app.md.

Nothing here is part of ``import midway_zoo``.
"""

from midway_zoo.app.page import build_app
from midway_zoo.app.server import serving
from midway_zoo.app.settings import AppSettings

__all__ = ["AppSettings", "build_app", "serving"]
