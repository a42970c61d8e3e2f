"""``midway-zoo app``: a page to play with (extra ``app``); see docs/app.md.

``server.py`` serves it and ``page.py`` lays it out; these two need Gradio. Its behaviour is in ``callbacks.py``, the
pictures are in ``views.py``, and the checks of dropped files in ``uploads.py``.
"""
